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

from ega_jax.losses import masks
from ega_jax.losses.problem import Columns, Recipe, Rows, Scalars
from ega_jax.losses.stats import LossStats

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


class RowResult(NamedTuple):
    """What a block of rows yields. The last two are None unless asked for."""

    loss: Float[Array, " N"]  # InfoNCE, not yet scaled
    stats: LossStats | None
    similarity_gradient: Float[Array, "N M"] | None  # of Σ scale · loss
    temperature_gradient: Float[Array, ""] | None  # of Σ scale · loss


def row_block(
    recipe: Recipe,
    similarity: Float[Array, "N M"],
    temperature: Float[Array, ""],
    rows: Rows,
    columns: Columns,
    scalars: Scalars,
    *,
    with_gradient: bool,
) -> RowResult:
    """Computes the losses of a block of rows and, in the same pass, their gradient by similarity."""
    is_positive = masks.positive_pairs(rows, columns)
    positive_similarity = jnp.sum(jnp.where(is_positive, similarity, 0.0), axis=1)
    out_of_range = (rows.positives < 0) | (rows.positives >= columns.numbers.shape[0])
    # Under jit an index cannot be refused; a NaN is at least not a wrong number.
    positive_similarity = jnp.where(out_of_range & (rows.scale != 0), jnp.nan, positive_similarity)

    relative = similarity - positive_similarity[:, None]
    is_negative = masks.negative_pairs(recipe, rows, columns, scalars, relative)
    logits = jnp.where(is_negative, relative / temperature, -jnp.inf)
    log_odds = _log_sum_exp(logits)
    loss = jax.nn.softplus(log_odds)
    if not (with_gradient or recipe.with_stats):
        return RowResult(loss, None, None, None)

    log_weight = _log_weight(recipe, similarity, relative, scalars)
    weighted_logits = logits if log_weight is None else jnp.where(is_negative, logits + log_weight, -jnp.inf)
    weighted_log_odds = log_odds if log_weight is None else _log_sum_exp(weighted_logits)
    amplified = recipe.combine(log_odds, weighted_log_odds)
    share = jnp.exp(weighted_logits - amplified.log_normalizer[:, None])  # P̄ of the negatives

    similarity_gradient = temperature_gradient = stats = None
    if with_gradient:
        scale = (rows.scale / temperature)[:, None]
        similarity_gradient = scale * jnp.where(is_positive, -amplified.positive_pull[:, None], share)
        if recipe.learnable_temperature:
            # The derivative of the value, so of P: -(1/τ) Σ P x.
            mean_logit = jnp.sum(jnp.where(is_negative, jnp.exp(logits - loss[:, None]) * logits, 0.0), axis=1)
            temperature_gradient = -jnp.sum(rows.scale * mean_logit) / temperature
    if recipe.with_stats:
        hardest = jnp.max(jnp.where(is_negative, similarity, -jnp.inf), axis=1)
        stats = LossStats(
            weight=rows.scale,
            loss=loss,
            positive_similarity=positive_similarity,
            hardest_negative_similarity=hardest,
            hardest_negative_amplification=_amplification(
                recipe, hardest, positive_similarity, loss, amplified.log_normalizer, scalars
            ),
            positive_pull=amplified.positive_pull,
            effective_negatives=_effective_count(weighted_logits, weighted_log_odds),
            negative_count=jnp.sum(is_negative, axis=1, dtype=jnp.int32),
            capped_weight_count=_capped_count(recipe, similarity, relative, is_negative, scalars),
        )
    return RowResult(loss, stats, similarity_gradient, temperature_gradient)


def _log_sum_exp(logits: Float[Array, "N M"]) -> Float[Array, " N"]:
    """Row log-sum-exp; -inf for a row that is -inf throughout."""
    peak = jnp.max(logits, axis=1)
    peak = jnp.where(jnp.isneginf(peak), 0.0, peak)
    return jnp.log(jnp.sum(jnp.exp(logits - peak[:, None]), axis=1)) + peak


def _log_weight(recipe: Recipe, similarity: Array, relative: Array, scalars: Scalars) -> Array | None:
    if recipe.log_weight is None:
        return None
    log_weight = recipe.log_weight(similarity, relative, *scalars.weight_parameters)
    return log_weight if recipe.log_weight_cap is None else jnp.minimum(log_weight, recipe.log_weight_cap)


def _amplification(
    recipe: Recipe, hardest: Array, positive: Array, loss: Array, log_normalizer: Array, scalars: Scalars
) -> Float[Array, " N"]:
    """`P̄ / P` of the hardest negative; with no negative, 1."""
    log_weight = _log_weight(recipe, hardest, hardest - positive, scalars)
    ratio = jnp.exp((0.0 if log_weight is None else log_weight) + loss - log_normalizer)
    return jnp.where(jnp.isneginf(hardest), 1.0, ratio)


def _effective_count(weighted_logits: Array, weighted_log_odds: Array) -> Float[Array, " N"]:
    """`1 / Σ r²` of the negatives' shares r among themselves; with no negative, 0."""
    total = jnp.where(jnp.isneginf(weighted_log_odds), 0.0, weighted_log_odds)
    sum_of_squares = jnp.sum(jnp.exp(2.0 * (weighted_logits - total[:, None])), axis=1)
    return jnp.where(sum_of_squares > 0, 1.0 / jnp.where(sum_of_squares > 0, sum_of_squares, 1.0), 0.0)


def _capped_count(
    recipe: Recipe, similarity: Array, relative: Array, is_negative: Bool[Array, "N M"], scalars: Scalars
) -> Array:
    if recipe.log_weight is None or recipe.log_weight_cap is None:
        return jnp.zeros(similarity.shape[:1], jnp.int32)
    log_weight = recipe.log_weight(similarity, relative, *scalars.weight_parameters)
    return jnp.sum(is_negative & (log_weight > recipe.log_weight_cap), axis=1, dtype=jnp.int32)
