"""QQMM (arXiv 2506.02020) as an embedder: patches and tokens in, one unit vector a row out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ega_jax.models.embedding_model import count_before
from ega_jax.models.layers import Compute
from ega_jax.models.name_table import NameTable
from ega_jax.models.navit import NavitTower
from ega_jax.models.patch_model import PatchEmbeddingModel
from ega_jax.models.projection import Projection
from ega_jax.models.qqmm_config import QqmmConfig
from ega_jax.models.qqmm_names import NAMES
from ega_jax.models.qwen2 import Qwen2

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


class Qqmm(PatchEmbeddingModel):
    """NaViT tower -> blocks of 2 x 2 patches -> projection -> visual tokens among the text's -> Qwen2 -> last token.

    The inputs of `PatchEmbeddingModel`. The feature table is [image row, block 0, block 1, ...]: each picture's visual
    tokens are the image row, a learned one, and then its blocks row by row.
    """

    names: ClassVar[NameTable] = NAMES

    def __init__(self, config: QqmmConfig, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.config, self.compute = config, compute
        self.vision_tower = NavitTower(config.vision, compute=compute, rngs=rngs)
        self.projector = PerceiverProjection(config, compute=compute, rngs=rngs)
        self.language_model = Qwen2(config.text, compute=compute, rngs=rngs)

    def feature_table(self, inputs: Mapping[str, Array]) -> Float[Array, "rows D"] | None:
        """[image row, block 0, block 1, ...], float32."""
        features = self.encode_patches(inputs)
        if features is None:
            return None
        # Zero where a picture with an odd number of patches a side has none; what the tower makes of padding is noise.
        features = jnp.where(inputs["patch_segments"][:, None] > 0, features, 0)
        return self.projector(features).astype(jnp.float32)

    def positions(self, inputs: Mapping[str, Array]) -> Int[Array, "B T"]:
        """Rotary positions: all tokens of a picture share one, if `config.share_image_positions`.

        Causality is by place, not by position, so a picture's later tokens still see its earlier ones alone.
        """
        advances = inputs["attention_mask"].astype(bool)
        if self.config.share_image_positions and "visual_index" in inputs:
            inside = self.is_visual(inputs) & (inputs["visual_index"][..., 0] > 0)
            advances = advances & ~inside
        return count_before(advances)


class PerceiverProjection(Projection):
    """[image_embedding, blocks of 2 x 2 patches side by side] -> projection.

    The published name; there is no attention in it.
    """

    def __init__(self, config: QqmmConfig, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.block = config.vision.hidden_size * config.image.merge_size**2
        hidden = config.text.hidden_size
        super().__init__((self.block, *[hidden] * config.projection_layers), compute=compute, rngs=rngs)
        row = jax.random.normal(rngs.params(), (1, self.block))
        self.image_embedding = nnx.Param(row, axes=(None, "vision_embed"))

    def __call__(self, features: Float[Array, "P V"]) -> Float[Array, "rows D"]:
        """The projected image row, then one row for each block of patches."""
        blocks = features.reshape(-1, self.block)
        row = self.image_embedding[...].astype(blocks.dtype)
        return super().__call__(jnp.concatenate([row, blocks]))
