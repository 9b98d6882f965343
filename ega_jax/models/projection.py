"""From a tower's width to the decoder's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
from flax import nnx

from ega_jax.models.layers import Compute, Linear

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Projection(nnx.Module):
    """linear_N(gelu(... gelu(linear_1(x)))), exact GELU."""

    def __init__(self, widths: Sequence[int], *, compute: Compute, rngs: nnx.Rngs) -> None:
        """
        Args:
          widths: features that go in, those between, and those that come out; N + 1 of them.
          compute, rngs: as everywhere.
        """
        # Inputs and outputs are split in turn, so that what one layer leaves split the next takes split.
        ends, self.depth = ("embed", "mlp"), len(widths) - 1
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            axes = (ends[number % 2] if number else "vision_embed", ends[(number + 1) % 2])
            layer = Linear(inputs, outputs, axes=axes, compute=compute, rngs=rngs)
            setattr(self, f"linear_{number + 1}", layer)

    def __call__(self, x: Float[Array, "*B V"]) -> Float[Array, "*B D"]:
        for number in range(1, self.depth + 1):
            x = getattr(self, f"linear_{number}")(x if number == 1 else jax.nn.gelu(x, approximate=False))
        return x
