"""What a loss tells about its batch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossStats:
    """Detached statistics of a loss, one entry a query (of the query-to-target direction).

    Attributes:
        weight: The row's weight as given (1 where none was); 0 is padding, whose other entries mean nothing.
        loss: InfoNCE, before weighting and reduction, in nats.
        positive_similarity: `s` of the positive.
        hardest_negative_similarity: The largest `s` among the negatives that count; -inf where there is none.
        hardest_negative_amplification: `P̄ / P` of that negative: how many times harder it pulls on the model
            than under InfoNCE; 1 where there is none.
        positive_pull: `1 - P̄` of the positive, the strength of the pull towards it.
        effective_negatives: `(Σ P̄)² / Σ P̄²` over the negatives: how many share the push; 0 where there is
            none.
        negative_count: How many columns count as negatives.
        capped_weight_count: How many of those had their weight capped (`log_weight_cap`).
    """

    weight: Float[Array, " N"]
    loss: Float[Array, " N"]
    positive_similarity: Float[Array, " N"]
    hardest_negative_similarity: Float[Array, " N"]
    hardest_negative_amplification: Float[Array, " N"]
    positive_pull: Float[Array, " N"]
    effective_negatives: Float[Array, " N"]
    negative_count: Int[Array, " N"]
    capped_weight_count: Int[Array, " N"]

    def means(self) -> dict[str, Float[Array, ""]]:
        """Averages each statistic, by row weight, over the rows it is defined for: ready for a log."""
        has_negative = self.negative_count > 0

        def mean(values: Array, defined: Array | bool) -> Array:
            weight = jnp.where(defined, self.weight, 0.0)
            total = jnp.sum(weight)
            weighted = jnp.sum(jnp.where(weight > 0, weight * values, 0.0))
            return jnp.where(total > 0, weighted / jnp.where(total > 0, total, 1.0), 0.0)

        of_negatives = {
            "hardest_negative_similarity",
            "hardest_negative_amplification",
            "effective_negatives",
        }
        return {
            field.name: mean(getattr(self, field.name), has_negative if field.name in of_negatives else True)
            for field in dataclasses.fields(self)
            if field.name != "weight"
        }


def row_stats(
    *,
    weight: Float[Array, " N"],
    loss: Float[Array, " N"],
    positive_pull: Float[Array, " N"],
    positive_similarity: Float[Array, " N"],
    similarity: Float[Array, "N M"],
    is_negative: Bool[Array, "N M"],
    weighted_logits: Float[Array, "N M"],
    log_weight: Float[Array, "N M"] | None,
    log_weight_cap: float | None,
    log_renormalization: Float[Array, " N"],
) -> LossStats:
    """Describes a block of rows.

    `weighted_logits` are those of `P̄`'s negatives, -inf elsewhere; `log_renormalization` is log(P̄ / P) of a
    weight of 1.
    """
    candidates = jnp.where(is_negative, similarity, -jnp.inf)
    has_negative = jnp.any(is_negative, axis=1)
    log_amplification = log_renormalization
    capped = jnp.zeros_like(is_negative)
    if log_weight is not None:
        hardest = jnp.argmax(candidates, axis=1)[:, None]
        log_amplification += jnp.take_along_axis(log_weight, hardest, axis=1)[:, 0]
        if log_weight_cap is not None:
            capped = is_negative & (log_weight >= log_weight_cap)
    # Relative to the largest: effective counts do not depend on a common factor.
    largest = jnp.where(has_negative, jnp.max(weighted_logits, axis=1), 0.0)
    share = jnp.exp(weighted_logits - largest[:, None])
    sum_of_squares = jnp.where(has_negative, jnp.sum(share**2, axis=1), 1.0)
    return LossStats(
        weight=weight,
        loss=loss,
        positive_similarity=positive_similarity,
        hardest_negative_similarity=jnp.max(candidates, axis=1),
        hardest_negative_amplification=jnp.where(has_negative, jnp.exp(log_amplification), 1.0),
        positive_pull=positive_pull,
        effective_negatives=jnp.sum(share, axis=1) ** 2 / sum_of_squares,
        negative_count=jnp.sum(is_negative, axis=1, dtype=jnp.int32),
        capped_weight_count=jnp.sum(capped, axis=1, dtype=jnp.int32),
    )
