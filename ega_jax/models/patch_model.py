"""What backbones with packed patches share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ega_jax.models.embedding_model import TOWER_FEATURES, EmbeddingModel, normalize_pixels

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from ega_jax.models.navit import NavitTower


class PatchEmbeddingModel(EmbeddingModel):
    """A NaViT tower over the patches of all pictures of a batch.

    The inputs of `EmbeddingModel`, with K = 1, and
      patches          (P, pixels) uint8, or float32 already normalised: block by block, each flattened as (row, column,
                       colour) (`patch_layout.cut_patches`); P is whole blocks, and may be 0, for a batch of texts.
      patch_segments   (P,) int32: the picture of each, a positive number; 0 is padding.
      patch_positions  (P, 2) int32: its row and column in its picture.
    """

    vision_tower: NavitTower

    def encode_patches(self, inputs: Mapping[str, Array]) -> Float[Array, "P V"] | None:
        """The tower's feature of each patch; None for a batch of texts."""
        patches = inputs.get("patches")
        if patches is None or patches.shape[0] == 0:
            return None
        config = self.config
        pixels = normalize_pixels(patches.reshape(len(patches), -1, 3), config.image.mean, config.image.std)
        # A picture counts as a film of equal frames.
        pixels = jnp.tile(pixels.reshape(len(patches), -1), (1, config.vision.frames))
        features = self.vision_tower(pixels, inputs["patch_segments"], inputs["patch_positions"])
        return checkpoint_name(features, TOWER_FEATURES)
