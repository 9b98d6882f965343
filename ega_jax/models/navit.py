"""The vision tower of Qwen2-VL and QQMM (NaViT, arXiv 2307.06304, in the form of arXiv 2409.12191).

Pictures of any size are one packed row of patches. A patch attends within its own picture, and knows its place by
rotary angles of its row and column. So there is no position table, nothing is resized to a fixed square, and no picture
is padded: only the row is, once.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from flax import nnx

from ega_jax.errors import BadInputError
from ega_jax.models.layers import Compute, Linear, Stack, rotary_angles
from ega_jax.models.vision_layers import VisionLayer, quick_gelu

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

ROPE_THETA = 1e4


@dataclasses.dataclass(frozen=True)
class NavitConfig:
    """Sizes of the tower.

    Attributes:
      patch_size: side of a (square) patch, pixels.
      frames: video frames that a patch spans.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    frames: int = 1
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.num_attention_heads):
            raise BadInputError(
                f"vision hidden_size={self.hidden_size} is not a multiple of 4 for each of "
                f"num_attention_heads={self.num_attention_heads}, as rotary rows and columns need"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_pixels(self) -> int:
        """Numbers in a flattened patch: (frame, row, column, colour)."""
        return self.frames * self.patch_size**2 * 3


class NavitTower(nnx.Module):
    """Patches -> linear embedding without bias -> encoder layers; no norm at the end."""

    def __init__(self, config: NavitConfig, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.config = config
        self.patch_embedding = Linear(
            config.patch_pixels,
            config.hidden_size,
            axes=(None, "vision_embed"),
            compute=compute,
            rngs=rngs,
            use_bias=False,
        )
        make_layer = functools.partial(VisionLayer, config, quick_gelu, compute)
        self.encoder = Stack(make_layer, config.num_hidden_layers, compute=compute, rngs=rngs)

    def __call__(
        self,
        patches: Float[Array, "P pixels"],
        segments: Int[Array, " P"],
        positions: Int[Array, "P 2"],
    ) -> Float[Array, "P D"]:
        """Features of P packed patches.

        Args:
          patches: normalised pixels, each patch flattened as (frame, row, column, colour).
          segments: the picture that each belongs to, counted from 1 (or any positive numbers); 0 is padding.
          positions: row and column of each in its picture's grid.

        Returns:
          Features in the order of `patches`; those of padding mean nothing.
        """
        x = self.patch_embedding(patches)[None]
        return self.encoder(x, segments[None], rotary_angles_2d(positions, self.config.head_dim))[0]


def rotary_angles_2d(
    positions: Int[Array, "P 2"], head_dim: int
) -> tuple[Float[Array, "1 P half"], Float[Array, "1 P half"]]:
    """Cosine and sine for `rotate`: half of a head's pairs turn with the row, the other half with the column.

    Each half has the frequencies 10000^(-2i / (head_dim / 2)), i < head_dim / 4.
    """
    cos, sin = rotary_angles(positions, head_dim // 2, ROPE_THETA)  # (P, 2, head_dim / 4)
    return cos.reshape(1, len(positions), -1), sin.reshape(1, len(positions), -1)
