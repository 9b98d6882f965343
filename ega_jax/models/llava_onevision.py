"""LLaVA-OneVision (arXiv 2408.03326) as an embedder: tiles and tokens in, one unit vector a row out."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ega_jax.models.layers import Compute, Linear
from ega_jax.models.llava_onevision_config import LlavaOnevisionConfig
from ega_jax.models.llava_onevision_names import NAMES
from ega_jax.models.name_table import NameTable
from ega_jax.models.qwen2 import Qwen2
from ega_jax.models.siglip import SiglipTower

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, UInt8


class LlavaOnevision(nnx.Module):
    """SigLIP tower -> projector -> visual tokens among the text's -> Qwen2 -> the last token's hidden state.

    Inputs are one dict of arrays:
      input_ids       (B, T) int32; a visual token's id is `image_token_id` or `video_token_id`.
      attention_mask  (B, T) bool, True on real tokens; padding may stand on either side.
      tiles           (S, H, W, 3) uint8, or float32 already normalised; S may be 0, for a batch of texts.
      visual_index    (B, T, K) int32: rows of the feature table [newline, tile 0's features, tile 1's, ...].
      visual_weight   (B, T, K) float32: their weights. Text tokens' are ignored.
      positions       (B, T) int32, optional: default counts the real tokens of each row.
    """

    names: ClassVar[NameTable] = NAMES

    def __init__(self, config: LlavaOnevisionConfig, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.config, self.compute = config, compute
        hidden = config.text.hidden_size
        self.vision_tower = SiglipTower(config.vision, compute=compute, rngs=rngs)
        self.projector = Projector(config.vision.hidden_size, hidden, compute=compute, rngs=rngs)
        newline = hidden**-0.5 * jax.random.normal(rngs.params(), (hidden,))
        self.image_newline = nnx.Param(newline, axes=("embed",))
        self.language_model = Qwen2(config.text, compute=compute, rngs=rngs)

    def embed(self, inputs: Mapping[str, Array]) -> Float[Array, "B D"]:
        """L2-normalised hidden state of each row's last real token, float32."""
        hidden = self.hidden_states(inputs)
        last = _last_token(inputs["attention_mask"])
        embeddings = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return embeddings * jax.lax.rsqrt(jnp.maximum(jnp.square(embeddings).sum(-1, keepdims=True), 1e-14))

    def hidden_states(self, inputs: Mapping[str, Array]) -> Float[Array, "B T D"]:
        """Final-norm hidden states of every token, float32; those of padding mean nothing."""
        mask = inputs["attention_mask"].astype(bool)
        positions = inputs.get("positions")
        if positions is None:
            positions = jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)
        return self.language_model(self.merge(inputs), mask, positions)

    def merge(self, inputs: Mapping[str, Array]) -> Float[Array, "B T D"]:
        """Token embeddings, with the visual tokens' rows drawn from the feature table."""
        ids = inputs["input_ids"]
        embeddings = self.language_model.embed_tokens(ids)
        tiles = inputs.get("tiles")
        if tiles is None or tiles.shape[0] == 0:
            return embeddings
        index, weight = inputs["visual_index"], inputs["visual_weight"]
        table = self.feature_table(self.encode_tiles(tiles))
        taps = [weight[..., k, None] * table[index[..., k]] for k in range(index.shape[-1])]
        visual = functools.reduce(jnp.add, taps)
        is_visual = (ids == self.config.image_token_id) | (ids == self.config.video_token_id)
        return jnp.where(is_visual[..., None], visual.astype(embeddings.dtype), embeddings)

    def feature_table(self, features: Float[Array, "S P D"]) -> Float[Array, "rows D"]:
        """[newline, tile 0's features, tile 1's, ...], what `visual_index` counts.

        Float32, so that the gradient of a row that thousands of tokens share (the newline) adds up without loss.
        """
        flat = features.reshape(-1, features.shape[-1]).astype(jnp.float32)
        return jnp.concatenate([self.image_newline[...][None], flat])

    def encode_tiles(self, tiles: UInt8[Array, "S H W 3"] | Float[Array, "S H W 3"]) -> Float[Array, "S P D"]:
        """Projected features of each tile, in the decoder's width."""
        return self.projector(self.vision_tower(self.normalize(tiles)))

    def normalize(self, tiles: UInt8[Array, "S H W 3"] | Float[Array, "S H W 3"]) -> Float[Array, "S H W 3"]:
        """Pixel values as the tower wants them, float32: uint8 is normalised, float is taken as it is."""
        if tiles.dtype != jnp.uint8:
            return tiles.astype(jnp.float32)
        mean, std = (jnp.asarray(x, jnp.float32) for x in (self.config.image.mean, self.config.image.std))
        return (tiles.astype(jnp.float32) * np.float32(1 / 255) - mean) / std


class Projector(nnx.Module):
    """linear_2(gelu(linear_1(x))), exact GELU: from the tower's width to the decoder's."""

    def __init__(self, vision_size: int, text_size: int, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.linear_1 = Linear(vision_size, text_size, axes=("vision_embed", "mlp"), compute=compute, rngs=rngs)
        self.linear_2 = Linear(text_size, text_size, axes=("mlp", "embed"), compute=compute, rngs=rngs)

    def __call__(self, x: Float[Array, "S P V"]) -> Float[Array, "S P D"]:
        return self.linear_2(jax.nn.gelu(self.linear_1(x), approximate=False))


def _last_token(attention_mask: Bool[Array, "B T"]) -> Int[Array, " B"]:
    """Index of each row's last real token, whichever side padding is on."""
    length = attention_mask.shape[-1]
    return length - 1 - jnp.argmax(attention_mask[:, ::-1].astype(jnp.int32), axis=-1)
