"""The mathematics of the loss, for a block of rows against some columns.

Every sum runs over a row's negatives alone and is compared with the positive in log-odds form. With the
logits relative to the positive, `x_j = (s_j - s_positive) / τ`,

    u = log Σ_negatives exp(x)            loss = softplus(u)       1 - P_positive = sigmoid(u)
    v = log Σ_negatives w exp(x)          the same of the weighted distribution

so a loss of 1e-12 keeps all its digits; with the positive inside the sum it would keep none. Sums over some
columns merge with sums over others: the columns need not be seen at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import hardness, masks
from ega_jax.losses.problem import Columns, Recipe, Rows, Scalars
from ega_jax.losses.stats import LossStats, NegativeStats, negative_stats

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


class Comparison(NamedTuple):
    """A block of rows against columns, each pair compared with the row's positive."""

    similarity: Float[Array, "N M+K"]
    relative_similarity: Float[Array, "N M+K"]
    is_positive: Bool[Array, "N M+K"]
    is_negative: Bool[Array, "N M+K"]
    logits: Float[Array, "N M+K"]  # x, -inf for what is no negative
    log_weight: Float[Array, "N M+K"] | None  # None: weights of 1
    weighted_logits: Float[Array, "N M+K"]  # x + log w, likewise


class NegativeSums(NamedTuple):
    """Sums over a row's negatives."""

    log_odds: Float[Array, " N"]  # u
    weighted_log_odds: Float[Array, " N"]  # v
    stats: NegativeStats | None


class RowLosses(NamedTuple):
    """What a row's sums come to."""

    loss: Float[Array, " N"]  # not yet scaled
    amplified: hardness.Amplified
    stats: LossStats | None


def positive_similarities(similarity: Float[Array, "N M+K"], rows: Rows, columns: Columns) -> Float[Array, " N"]:
    """Picks each row's similarity to its positive, which must be among the columns."""
    is_positive = masks.positive_pairs(rows, columns, similarity.shape[1])
    return nan_if_missing(rows, jnp.sum(jnp.where(is_positive, similarity, 0.0), axis=1))


def nan_if_missing(rows: Rows, positive_similarity: Float[Array, " N"]) -> Float[Array, " N"]:
    """Under jit an index out of range cannot be refused; a NaN is at least not a wrong number."""
    return jnp.where((rows.positives < 0) & (rows.scale != 0), jnp.nan, positive_similarity)


def compare(
    recipe: Recipe,
    similarity: Float[Array, "N M+K"],
    positive_similarity: Float[Array, " N"],
    temperature: Float[Array, ""],
    rows: Rows,
    columns: Columns,
    scalars: Scalars,
) -> Comparison:
    """Finds the negatives among the columns and, behind them, the rows' own negatives, with logits and weights."""
    relative = similarity - positive_similarity[:, None]
    is_negative = masks.negative_pairs(recipe, rows, columns, scalars, relative)
    logits = jnp.where(is_negative, relative / temperature, -jnp.inf)
    num_columns = columns.numbers.shape[0]
    if rows.own_weights is not None and similarity.shape[1] > num_columns:
        # To count w times is to add log w; a weight of 0 is masked already.
        log_counts = jnp.log(jnp.where(rows.own_weights > 0, rows.own_weights, 1.0))
        logits += jnp.pad(log_counts, ((0, 0), (num_columns, 0)))
    log_weight, weighted_logits = None, logits
    if recipe.log_weight is not None:
        is_own = jnp.arange(similarity.shape[1]) >= num_columns
        pairs = hardness.Pairs(similarity, relative, is_own)
        log_weight = recipe.log_weight(pairs, *scalars.weight_parameters)
        if recipe.log_weight_cap is not None:
            log_weight = jnp.minimum(log_weight, recipe.log_weight_cap)
        weighted_logits = jnp.where(is_negative, logits + log_weight, -jnp.inf)
    is_positive = masks.positive_pairs(rows, columns, similarity.shape[1])
    return Comparison(similarity, relative, is_positive, is_negative, logits, log_weight, weighted_logits)


def sum_negatives(recipe: Recipe, pairs: Comparison) -> NegativeSums:
    """Sums over the negatives among these columns."""
    log_odds = _log_sum_exp(pairs.logits)
    weighted_log_odds = log_odds if pairs.log_weight is None else _log_sum_exp(pairs.weighted_logits)
    stats = None
    if recipe.with_stats:
        stats = negative_stats(
            pairs.similarity,
            pairs.is_negative,
            pairs.log_weight,
            recipe.log_weight_cap,
            _log_sum_exp(2.0 * pairs.weighted_logits),
        )
    return NegativeSums(log_odds, weighted_log_odds, stats)


def no_negatives(recipe: Recipe, like: Float[Array, ...]) -> NegativeSums:
    """Sums over no columns at all."""
    nothing, count = jnp.full_like(like, -jnp.inf), jnp.zeros_like(like, jnp.int32)
    stats = NegativeStats(nothing, jnp.zeros_like(like), nothing, count, count) if recipe.with_stats else None
    return NegativeSums(nothing, nothing, stats)


def merge(some: NegativeSums, others: NegativeSums) -> NegativeSums:
    """Sums over two disjoint sets of columns."""
    return NegativeSums(
        jnp.logaddexp(some.log_odds, others.log_odds),
        jnp.logaddexp(some.weighted_log_odds, others.weighted_log_odds),
        None if some.stats is None or others.stats is None else some.stats.merge(others.stats),
    )


def row_losses(recipe: Recipe, rows: Rows, positive_similarity: Float[Array, " N"], sums: NegativeSums) -> RowLosses:
    """Turns sums over all negatives into losses, gradients' normalizers and statistics."""
    loss = jax.nn.softplus(sums.weighted_log_odds if recipe.weighted_value else sums.log_odds)
    amplified = recipe.combine(sums.log_odds, sums.weighted_log_odds)
    stats = None
    if sums.stats is not None:
        stats = LossStats(
            weight=rows.scale,
            loss=loss,
            positive_similarity=positive_similarity,
            hardest_negative_similarity=sums.stats.hardest_similarity,
            hardest_negative_amplification=sums.stats.amplification(
                jax.nn.softplus(sums.log_odds) - amplified.log_normalizer
            ),
            positive_pull=amplified.positive_pull,
            effective_negatives=sums.stats.effective_count(sums.weighted_log_odds),
            negative_count=sums.stats.negative_count,
            capped_weight_count=sums.stats.capped_count,
        )
    return RowLosses(loss, amplified, stats)


def similarity_gradient(
    recipe: Recipe, pairs: Comparison, losses: RowLosses, temperature: Float[Array, ""], rows: Rows
) -> tuple[Float[Array, "N M+K"], Float[Array, ""] | None]:
    """Returns the gradients of Σ scale · loss by these similarities and, if it is asked for, by the temperature."""
    amplified = losses.amplified
    share = jnp.exp(pairs.weighted_logits - amplified.log_normalizer[:, None])  # P̄ of the negatives
    gradient = jnp.where(pairs.is_positive, -amplified.positive_pull[:, None], share)
    gradient *= (rows.scale / temperature)[:, None]
    if not recipe.learnable_temperature:
        return gradient, None
    # The derivative of the value, whichever distribution that is of: -(1/τ²) Σ p (s - s_positive).
    logits = pairs.weighted_logits if recipe.weighted_value else pairs.logits
    share = jnp.exp(logits - losses.loss[:, None])
    mean_relative = jnp.sum(jnp.where(pairs.is_negative, share * pairs.relative_similarity, 0.0), axis=1)
    return gradient, -jnp.sum(rows.scale * mean_relative) / temperature**2


def _log_sum_exp(logits: Float[Array, "N M"]) -> Float[Array, " N"]:
    """Row log-sum-exp; -inf for a row that is -inf throughout, or empty."""
    peak = jnp.max(logits, axis=1, initial=-jnp.inf)
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    return jnp.log(jnp.sum(jnp.exp(logits - peak[:, None]), axis=1)) + peak
