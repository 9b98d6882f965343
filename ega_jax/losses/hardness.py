"""How hard a negative is, and what its hardness does to the gradient.

A *log-weight function* maps the similarity `s` of a (query, negative) pair and its similarity relative to the
positive, `d = s - s_positive`, to `log w`, the log of the factor by which the negative's share of the softmax
grows. It is called on whole blocks of pairs, works elementwise, and is never differentiated: hardness is a
weight.

A *combination* turns the weighted shares back into the distribution `P̄` that replaces InfoNCE's `P` in the
gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# (similarity, relative_similarity, *parameters) -> log weight, all of one shape but for the scalar
# parameters.
LogWeight = Callable[..., jax.Array]


def relative(
    similarity: Float[Array, ...], relative_similarity: Float[Array, ...], alpha: Array, log_beta: Array
) -> Float[Array, ...]:
    """Returns log(1 + β exp(α d)): a negative is hard when it nears the positive; a tie gives 1 + β."""
    del similarity
    return jax.nn.softplus(log_beta + alpha * relative_similarity)


def absolute(
    similarity: Float[Array, ...], relative_similarity: Float[Array, ...], alpha: Array, log_beta: Array
) -> Float[Array, ...]:
    """Returns log(1 + β exp(α (s - 1))): a negative is hard when it is similar, wherever its positive is."""
    del relative_similarity
    return jax.nn.softplus(log_beta + alpha * (similarity - 1.0))


class Amplified(NamedTuple):
    """`P̄` of a row: `exp(x + log w - log_normalizer)` on each negative, `1 - positive_pull` on the positive.

    `x` is the logit relative to the positive's, `(s - s_positive) / temperature`.
    """

    log_normalizer: Float[Array, " rows"]
    positive_pull: Float[Array, " rows"]


def normalized(log_odds: Float[Array, " rows"], weighted_log_odds: Float[Array, " rows"]) -> Amplified:
    """`P̄ = w p / Σ w p`: rows sum to 1 and every entry stays within [0, 1]."""
    del log_odds
    return Amplified(jax.nn.softplus(weighted_log_odds), jax.nn.sigmoid(weighted_log_odds))


def rebalanced(log_odds: Float[Array, " rows"], weighted_log_odds: Float[Array, " rows"]) -> Amplified:
    """`P̄ = w p` on the negatives and `1 - Σ` on the positive, which may fall below 0: rows sum to 1."""
    log_normalizer = jax.nn.softplus(log_odds)
    return Amplified(log_normalizer, jnp.exp(weighted_log_odds - log_normalizer))


def unnormalized(log_odds: Float[Array, " rows"], weighted_log_odds: Float[Array, " rows"]) -> Amplified:
    """`P̄ = w p` on the negatives, the positive as in InfoNCE: rows sum to more than 1. For study."""
    del weighted_log_odds
    return Amplified(jax.nn.softplus(log_odds), jax.nn.sigmoid(log_odds))


HARDNESS: dict[str, LogWeight] = {"relative": relative, "absolute": absolute}
COMBINE: dict[str, Callable[[jax.Array, jax.Array], Amplified]] = {
    "normalized": normalized,
    "rebalanced": rebalanced,
    "unnormalized": unnormalized,
}
