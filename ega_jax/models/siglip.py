"""The SigLIP vision tower (arXiv 2303.15343): tiles in, one feature a patch out."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import jax
from flax import nnx

from ega_jax.errors import BadInputError
from ega_jax.models.layers import Compute, Linear, Stack
from ega_jax.models.vision_layers import VisionLayer, gelu_tanh

if TYPE_CHECKING:
    from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class SiglipConfig:
    """Sizes of the tower.

    Attributes:
      image_size: side of a (square) tile, pixels.
      patch_size: side of a patch, pixels. What remains at a tile's right and bottom edge is not seen.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise BadInputError(
                f"vision num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}"
            )
        if not 0 < self.patch_size <= self.image_size:
            raise BadInputError(f"vision patch_size={self.patch_size} does not fit image_size={self.image_size}")

    @property
    def grid_size(self) -> int:
        """Patches along a side of a tile."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of a tile, which is also features of a tile."""
        return self.grid_size**2


class SiglipTower(nnx.Module):
    """Patches -> linear embedding + learned position -> encoder layers.

    The features are the last layer's output as it is: the published model's final LayerNorm belongs to
    SigLIP's own head and is not applied in LLaVA-OneVision.
    """

    def __init__(self, config: SiglipConfig, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.patch_size, self.grid_size = config.patch_size, config.grid_size
        pixels = 3 * config.patch_size**2
        hidden, axes = config.hidden_size, (None, "vision_embed")
        self.patch_embedding = Linear(pixels, hidden, axes=axes, compute=compute, rngs=rngs)
        positions = hidden**-0.5 * jax.random.normal(rngs.params(), (config.num_patches, hidden))
        self.position_embedding = nnx.Param(positions, axes=axes)
        make_layer = functools.partial(VisionLayer, config, gelu_tanh, compute)
        self.encoder = Stack(make_layer, config.num_hidden_layers, compute=compute, rngs=rngs)

    def __call__(self, pixels: Float[Array, "S H W 3"]) -> Float[Array, "S P D"]:
        """Features of S normalised tiles, patches row-major."""
        x = self.patch_embedding(_patches(pixels, self.patch_size, self.grid_size))
        x = x + self.position_embedding[...].astype(x.dtype)
        return self.encoder(x)


def _patches(pixels: Float[Array, "S H W 3"], size: int, grid: int) -> Float[Array, "S P pixels"]:
    """Cuts tiles into (grid * grid) patches, row-major, each flattened as (row, column, colour)."""
    tiles = pixels[:, : grid * size, : grid * size]
    tiles = tiles.reshape(-1, grid, size, grid, size, 3).swapaxes(2, 3)
    return tiles.reshape(-1, grid * grid, size * size * 3)
