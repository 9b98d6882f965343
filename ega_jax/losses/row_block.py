"""The mathematics of the loss, for one block of queries against all targets.

Every sum runs over a row's negatives alone and is compared with the positive in log-odds form. With the
logits relative to the positive, `x_j = (s_j - s_positive) / τ`,

    u = log Σ_negatives exp(x)            loss = softplus(u)       1 - P_positive = sigmoid(u)
    v = log Σ_negatives w exp(x)          the same of the weighted distribution

so a loss of 1e-12 keeps all its digits; with the positive inside the sum it would keep none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import hardness, masks
from ega_jax.losses.problem import Columns, Recipe, Rows, Scalars
from ega_jax.losses.stats import LossStats, row_stats

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class RowResult(NamedTuple):
    """What a block of rows yields. The last three are None unless asked for."""

    loss: Float[Array, " N"]  # not yet scaled
    similarity_gradient: Float[Array, "N M+K"] | None = None  # of Σ scale · loss
    temperature_gradient: Float[Array, ""] | None = None  # of Σ scale · loss
    stats: LossStats | None = None


def row_block(
    recipe: Recipe,
    similarity: Float[Array, "N M+K"],
    temperature: Float[Array, ""],
    rows: Rows,
    columns: Columns,
    scalars: Scalars,
    *,
    with_gradient: bool,
) -> RowResult:
    """Computes the losses of a block of rows and, in the same pass, their gradient by similarity.

    The columns are the targets and, behind them, each row's own negatives if it has any.
    """
    is_positive = masks.positive_pairs(rows, similarity.shape[1])
    positive_similarity = jnp.sum(jnp.where(is_positive, similarity, 0.0), axis=1)
    out_of_range = (rows.positives < 0) | (rows.positives >= columns.numbers.shape[0])
    # Under jit an index cannot be refused; a NaN is at least not a wrong number.
    positive_similarity = jnp.where(out_of_range & (rows.scale != 0), jnp.nan, positive_similarity)

    relative = similarity - positive_similarity[:, None]
    is_negative = masks.negative_pairs(recipe, rows, columns, scalars, relative)
    logits = jnp.where(is_negative, relative / temperature, -jnp.inf)
    if rows.own_weights is not None:
        # To count w times is to add log w; a weight of 0 is masked already.
        log_counts = jnp.log(jnp.where(rows.own_weights > 0, rows.own_weights, 1.0))
        logits += jnp.pad(log_counts, ((0, 0), (columns.numbers.shape[0], 0)))
    log_odds = _log_sum_exp(logits)
    if not (with_gradient or recipe.with_stats or recipe.weighted_value):
        return RowResult(jax.nn.softplus(log_odds))

    log_weight, weighted_logits, weighted_log_odds = None, logits, log_odds
    if recipe.log_weight is not None:
        is_own = jnp.arange(similarity.shape[1]) >= columns.numbers.shape[0]
        pairs = hardness.Pairs(similarity, relative, is_own)
        log_weight = recipe.log_weight(pairs, *scalars.weight_parameters)
        if recipe.log_weight_cap is not None:
            log_weight = jnp.minimum(log_weight, recipe.log_weight_cap)
        weighted_logits = jnp.where(is_negative, logits + log_weight, -jnp.inf)
        weighted_log_odds = _log_sum_exp(weighted_logits)
    loss = jax.nn.softplus(weighted_log_odds if recipe.weighted_value else log_odds)
    amplified = recipe.combine(log_odds, weighted_log_odds)

    similarity_gradient = temperature_gradient = stats = None
    if with_gradient:
        share = jnp.exp(weighted_logits - amplified.log_normalizer[:, None])  # P̄ of the negatives
        scale = (rows.scale / temperature)[:, None]
        similarity_gradient = scale * jnp.where(is_positive, -amplified.positive_pull[:, None], share)
        if recipe.learnable_temperature:
            # The derivative of the value, whichever distribution that is of: -(1/τ²) Σ p (s - s_positive).
            value_share = jnp.exp((weighted_logits if recipe.weighted_value else logits) - loss[:, None])
            mean_relative = jnp.sum(jnp.where(is_negative, value_share * relative, 0.0), axis=1)
            temperature_gradient = -jnp.sum(rows.scale * mean_relative) / temperature**2
    if recipe.with_stats:
        stats = row_stats(
            weight=rows.scale,
            loss=loss,
            positive_pull=amplified.positive_pull,
            positive_similarity=positive_similarity,
            similarity=similarity,
            is_negative=is_negative,
            weighted_logits=weighted_logits,
            log_weight=log_weight,
            log_weight_cap=recipe.log_weight_cap,
            log_renormalization=jax.nn.softplus(log_odds) - amplified.log_normalizer,
        )
    return RowResult(loss, similarity_gradient, temperature_gradient, stats)


def _log_sum_exp(logits: Float[Array, "N M"]) -> Float[Array, " N"]:
    """Row log-sum-exp; -inf for a row that is -inf throughout."""
    peak = jnp.max(logits, axis=1)
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    return jnp.log(jnp.sum(jnp.exp(logits - peak[:, None]), axis=1)) + peak
