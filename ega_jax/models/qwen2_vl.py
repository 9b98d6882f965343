"""Qwen2-VL (arXiv 2409.12191) as an embedder: patches and tokens in, one unit vector a row out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import jax.numpy as jnp
from flax import nnx

from ega_jax.models.layers import Compute, LayerNorm
from ega_jax.models.name_table import NameTable
from ega_jax.models.navit import NavitTower
from ega_jax.models.patch_model import PatchEmbeddingModel
from ega_jax.models.projection import Projection
from ega_jax.models.qwen2 import Qwen2
from ega_jax.models.qwen2_vl_config import Qwen2VlConfig
from ega_jax.models.qwen2_vl_names import NAMES

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Qwen2Vl(PatchEmbeddingModel):
    """NaViT tower -> merger of 2 x 2 patches -> visual tokens among the text's -> Qwen2 with M-RoPE -> last token.

    The inputs of `PatchEmbeddingModel`, and
      positions  (B, T, 3) int32: rotary positions in time, height and width (`qwen2_vl_images.mrope_positions`); only a
                 batch of texts does without.
    The feature table has one row for each block of patches.
    """

    names: ClassVar[NameTable] = NAMES

    def __init__(self, config: Qwen2VlConfig, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.config, self.compute = config, compute
        self.vision_tower = NavitTower(config.vision, compute=compute, rngs=rngs)
        self.merger = Merger(config, compute=compute, rngs=rngs)
        self.language_model = Qwen2(config.text, compute=compute, rngs=rngs)

    def feature_table(self, inputs: Mapping[str, Array]) -> Float[Array, "rows D"] | None:
        """The merged blocks of patches, float32."""
        if "positions" not in inputs and len(inputs.get("patches", ())):
            raise ValueError("pictures need `positions`, (B, T, 3): see qwen2_vl_images.mrope_positions")
        features = self.encode_patches(inputs)
        return None if features is None else self.merger(features).astype(jnp.float32)


class Merger(Projection):
    """Each patch normalised, the patches of a block side by side, then a projection."""

    def __init__(self, config: Qwen2VlConfig, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.block = config.vision.hidden_size * config.image.merge_size**2
        super().__init__((self.block, self.block, config.text.hidden_size), compute=compute, rngs=rngs)
        self.norm = LayerNorm(config.vision.hidden_size, eps=config.vision.layer_norm_eps, axes=("vision_embed",))

    def __call__(self, features: Float[Array, "P V"]) -> Float[Array, "blocks D"]:
        return super().__call__(self.norm(features).reshape(-1, self.block))
