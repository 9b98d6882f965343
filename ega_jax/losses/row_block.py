"""The mathematics of the loss, for a block of rows against some columns.

Every sum runs over a row's negatives alone and is compared with the positive in log-odds form. With the
logits relative to the positive, `x_j = (s_j - s_positive) / τ`,

    u = log Σ_negatives exp(x)            loss = softplus(u)       1 - P_positive = sigmoid(u)
    v = log Σ_negatives w exp(x)          the same of the weighted distribution

(with `w = 1 + exp(g)`, `w exp(x) = exp(x) + exp(x + g)`: two exponentials and no logarithm a pair), so a
loss of 1e-12 keeps all its digits; with the positive inside the sum it would keep none. Sums over some
columns merge with sums over others: the columns need not be seen at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import hardness, masks
from ega_jax.losses.problem import Columns, Recipe, Rows, Scalars
from ega_jax.losses.stats import LossStats, NegativeStats, negative_stats

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


class Comparison(NamedTuple):
    """A block of rows against columns, each pair compared with the row's positive; (M, N) if columns come first."""

    similarity: Float[Array, "N M+K"]
    relative_similarity: Float[Array, "N M+K"]
    is_positive: Bool[Array, "N M+K"]
    is_negative: Bool[Array, "N M+K"]
    logits: Float[Array, "N M+K"]  # x, -inf for what is no negative
    log_weight: Float[Array, "N M+K"] | None  # g, of the recipe's log-weight function; None: weights of 1
    amplified_logits: Float[Array, "N M+K"] | None  # x + g, likewise


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


def positive_similarities(similarity: Float[Array, "N M+K"], rows: Rows) -> Float[Array, " N"]:
    """Picks each row's similarity to its positive among the columns of all devices."""
    found = jnp.take_along_axis(similarity, rows.positives[:, None], axis=1, mode="clip")[:, 0]
    return nan_if_missing(rows, found)


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
    relative = similarity - masks.by_row(recipe, positive_similarity)
    is_negative = masks.negative_pairs(recipe, rows, columns, scalars, relative)
    logits = jnp.where(is_negative, relative * (1.0 / temperature), -jnp.inf)
    num_columns = columns.numbers.shape[0]
    if rows.own_weights is not None and similarity.shape[1] > num_columns:
        # To count w times is to add log w; a weight of 0 is masked already.
        log_counts = jnp.log(jnp.where(rows.own_weights != 0, rows.own_weights, 1.0))
        logits += jnp.pad(log_counts, ((0, 0), (num_columns, 0)))
    log_weight, amplified_logits = None, None
    if recipe.log_weight is not None:
        is_own = masks.by_column(recipe, jnp.arange(similarity.shape[masks.column_axis(recipe)]) >= num_columns)
        pairs = hardness.Pairs(similarity, relative, is_own)
        log_weight = recipe.log_weight(pairs, *scalars.weight_parameters)
        if recipe.log_weight_cap is not None:
            log_weight = jnp.minimum(log_weight, _cap(recipe))
        amplified_logits = logits + log_weight
    is_positive = masks.positive_pairs(recipe, rows, columns, similarity.shape[masks.column_axis(recipe)])
    return Comparison(similarity, relative, is_positive, is_negative, logits, log_weight, amplified_logits)


def _cap(recipe: Recipe) -> float:
    """Turns the upper bound of log w into that of the log-weight function's values."""
    assert recipe.log_weight_cap is not None
    cap = recipe.log_weight_cap
    return cap + math.log1p(-math.exp(-cap)) if recipe.weights_add_to_one else cap


def _weighted_shares(recipe: Recipe, pairs: Comparison, log_normalizer: Float[Array, " N"]) -> Float[Array, "N M+K"]:
    """Returns w exp(x - log_normalizer) of the negatives, 0 elsewhere."""
    log_normalizer = masks.by_row(recipe, log_normalizer)
    if pairs.amplified_logits is None:
        return jnp.exp(pairs.logits - log_normalizer)
    shares = jnp.exp(pairs.amplified_logits - log_normalizer)
    if recipe.weights_add_to_one:
        shares += jnp.exp(pairs.logits - log_normalizer)
    return shares


def sum_negatives(recipe: Recipe, pairs: Comparison) -> NegativeSums:
    """Sums over the negatives among these columns."""
    log_odds = weighted_log_odds = _log_sum_exp(recipe, pairs.logits)
    if pairs.amplified_logits is not None:
        weighted_log_odds = _log_sum_exp(recipe, pairs.amplified_logits)
        if recipe.weights_add_to_one:
            weighted_log_odds = jnp.logaddexp(log_odds, weighted_log_odds)
    stats = None
    if recipe.with_stats:
        largest = jnp.where(jnp.isneginf(weighted_log_odds), 0.0, weighted_log_odds)
        squares = jnp.sum(jnp.square(_weighted_shares(recipe, pairs, largest)), axis=1)
        stats = negative_stats(
            pairs.similarity,
            pairs.is_negative,
            pairs.log_weight,
            None if recipe.log_weight_cap is None else _cap(recipe),
            jnp.log(squares) + 2.0 * largest,
        )
        if recipe.weights_add_to_one:
            stats = stats._replace(hardest_log_weight=jax.nn.softplus(stats.hardest_log_weight))
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
    loss = jnp.where(jnp.isnan(positive_similarity), jnp.nan, loss)  # without negatives it would be 0
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
    share = _weighted_shares(recipe, pairs, amplified.log_normalizer)  # P̄ of the negatives
    gradient = jnp.where(pairs.is_positive, -masks.by_row(recipe, amplified.positive_pull), share)
    gradient *= masks.by_row(recipe, rows.scale / temperature)
    if not recipe.learnable_temperature:
        return gradient, None
    # The derivative of the value, whichever distribution that is of: -(1/τ²) Σ p (s - s_positive).
    if recipe.weighted_value:
        share = _weighted_shares(recipe, pairs, losses.loss)
    else:
        share = jnp.exp(pairs.logits - masks.by_row(recipe, losses.loss))
    axis = masks.column_axis(recipe)
    mean_relative = jnp.sum(jnp.where(pairs.is_negative, share * pairs.relative_similarity, 0.0), axis=axis)
    return gradient, -jnp.sum(rows.scale * mean_relative) / temperature**2


def _log_sum_exp(recipe: Recipe, logits: Float[Array, "N M"]) -> Float[Array, " N"]:
    """Row log-sum-exp; -inf for a row that is -inf throughout, or empty."""
    axis = masks.column_axis(recipe)
    peak = jnp.max(logits, axis=axis, initial=-jnp.inf)
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    return jnp.log(jnp.sum(jnp.exp(logits - masks.by_row(recipe, peak)), axis=axis)) + peak
