"""LLaVA-OneVision (arXiv 2408.03326) as an embedder: tiles and tokens in, one unit vector a row out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ega_jax.models.embedding_model import TOWER_FEATURES, EmbeddingModel, normalize_pixels
from ega_jax.models.layers import Compute
from ega_jax.models.llava_onevision_config import LlavaOnevisionConfig
from ega_jax.models.llava_onevision_names import NAMES
from ega_jax.models.name_table import NameTable
from ega_jax.models.projection import Projection
from ega_jax.models.qwen2 import Qwen2
from ega_jax.models.siglip import SiglipTower

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, UInt8


class LlavaOnevision(EmbeddingModel):
    """SigLIP tower -> projector -> visual tokens among the text's -> Qwen2 -> the last token's hidden state.

    The inputs of `EmbeddingModel`, where a visual token's id may be `config.video_token_id` too, and
      tiles           (S, H, W, 3) uint8, or float32 already normalised; S may be 0, for a batch of texts.
      visual_index    (B, T, K) int32: rows of the feature table [newline, tile 0's features, tile 1's, ...].
    """

    names: ClassVar[NameTable] = NAMES

    def __init__(self, config: LlavaOnevisionConfig, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.config, self.compute = config, compute
        hidden = config.text.hidden_size
        self.vision_tower = SiglipTower(config.vision, compute=compute, rngs=rngs)
        self.projector = Projection((config.vision.hidden_size, hidden, hidden), compute=compute, rngs=rngs)
        newline = hidden**-0.5 * jax.random.normal(rngs.params(), (hidden,))
        self.image_newline = nnx.Param(newline, axes=("embed",))
        self.language_model = Qwen2(config.text, compute=compute, rngs=rngs)

    def feature_table(self, inputs: Mapping[str, Array]) -> Float[Array, "rows D"] | None:
        """[newline, tile 0's features, tile 1's, ...], float32."""
        tiles = inputs.get("tiles")
        if tiles is None or tiles.shape[0] == 0:
            return None
        features = self.encode_tiles(tiles)
        flat = features.reshape(-1, features.shape[-1]).astype(jnp.float32)
        return jnp.concatenate([self.image_newline[...][None], flat])

    def encode_tiles(self, tiles: UInt8[Array, "S H W 3"] | Float[Array, "S H W 3"]) -> Float[Array, "S P D"]:
        """Projected features of each tile, in the decoder's width."""
        return self.projector(checkpoint_name(self.vision_tower(self.normalize(tiles)), TOWER_FEATURES))

    def normalize(self, tiles: UInt8[Array, "S H W 3"] | Float[Array, "S H W 3"]) -> Float[Array, "S H W 3"]:
        """Pixel values as the tower wants them, float32: uint8 is normalised, float is taken as it is."""
        return normalize_pixels(tiles, self.config.image.mean, self.config.image.std)

    def is_visual(self, inputs: Mapping[str, Array]) -> Bool[Array, "B T"]:
        """Which tokens are placeholders of features, of a picture or of a video."""
        return super().is_visual(inputs) | (inputs["input_ids"] == self.config.video_token_id)
