"""Matryoshka representations (arXiv 2205.13147): vectors whose first entries are good vectors too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from ega_jax.losses import LossStats


def matryoshka_loss(
    loss_fn: Callable[..., Any],
    queries: Float[Array, "N D"],
    targets: Float[Array, "M D"],
    dimensions: Sequence[int],
    **options: Any,
) -> tuple[Float[Array, ""], LossStats]:
    """The mean of a loss at full width and on the first entries of every row (equation 1, with equal weights).

    Args:
      loss_fn: (queries, targets, return_stats=, **options) -> value, or value and statistics.
      queries, targets: unit rows.
      dimensions: widths below D; none leaves the loss as it is.
      **options: of `loss_fn`.

    Returns:
      The mean, and the statistics at full width.
    """
    value, stats = loss_fn(queries, targets, return_stats=True, **options)
    values = [value]
    for width in dimensions:
        values.append(loss_fn(truncate(queries, width), truncate(targets, width), return_stats=False, **options))
    return sum(values) / len(values), stats


def truncate(embeddings: Float[Array, "N D"], width: int) -> Float[Array, "N width"]:
    """The first `width` entries of each row, divided by their norm."""
    prefix = embeddings[:, :width]
    return prefix * jax.lax.rsqrt(jnp.maximum(jnp.square(prefix).sum(-1, keepdims=True), 1e-14))
