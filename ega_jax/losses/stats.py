"""What a loss tells about its batch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

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


class NegativeStats(NamedTuple):
    """Statistics over some of a row's negatives, which merge with those over others."""

    hardest_similarity: Float[Array, " N"]  # -inf where there is none
    hardest_log_weight: Float[Array, " N"]
    log_squares: Float[Array, " N"]  # log Σ (w exp(x))²
    negative_count: Int[Array, " N"]
    capped_count: Int[Array, " N"]

    def merge(self, others: NegativeStats) -> NegativeStats:
        """Statistics over both sets of negatives."""
        harder = others.hardest_similarity > self.hardest_similarity
        return NegativeStats(
            jnp.maximum(self.hardest_similarity, others.hardest_similarity),
            jnp.where(harder, others.hardest_log_weight, self.hardest_log_weight),
            jnp.logaddexp(self.log_squares, others.log_squares),
            self.negative_count + others.negative_count,
            self.capped_count + others.capped_count,
        )

    def amplification(self, log_renormalization: Float[Array, " N"]) -> Float[Array, " N"]:
        """Returns `P̄ / P` of the hardest negative, given the logarithm of that ratio at a weight of 1."""
        return jnp.where(self.negative_count > 0, jnp.exp(self.hardest_log_weight + log_renormalization), 1.0)

    def effective_count(self, weighted_log_odds: Float[Array, " N"]) -> Float[Array, " N"]:
        """Returns `(Σ P̄)² / Σ P̄²` over the negatives."""
        log_sum = jnp.where(self.negative_count > 0, weighted_log_odds, -jnp.inf)
        log_squares = jnp.where(self.negative_count > 0, self.log_squares, 0.0)
        return jnp.exp(2.0 * log_sum - log_squares)


def negative_stats(
    similarity: Float[Array, "N M"],
    is_negative: Bool[Array, "N M"],
    log_weight: Float[Array, "N M"] | None,
    log_weight_cap: float | None,
    log_squares: Float[Array, " N"],
) -> NegativeStats:
    """Describes the negatives among some columns."""
    candidates = jnp.where(is_negative, similarity, -jnp.inf)
    hardest_similarity = jnp.max(candidates, axis=1)
    hardest_log_weight = jnp.zeros_like(hardest_similarity)
    capped = jnp.zeros_like(is_negative)
    if log_weight is not None:
        hardest = jnp.argmax(candidates, axis=1)[:, None]
        hardest_log_weight = jnp.take_along_axis(log_weight, hardest, axis=1)[:, 0]
        if log_weight_cap is not None:
            capped = is_negative & (log_weight >= log_weight_cap)
    return NegativeStats(
        hardest_similarity,
        hardest_log_weight,
        log_squares,
        jnp.sum(is_negative, axis=1, dtype=jnp.int32),
        jnp.sum(capped, axis=1, dtype=jnp.int32),
    )
