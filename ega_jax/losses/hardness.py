"""How hard a negative is, and what its hardness does to the gradient.

A *log-weight function* maps pairs to `log w`, the log of the factor by which a negative's share of the
softmax grows, or to `log (w - 1)`, for weights that add to 1 (`Recipe.weights_add_to_one`). It is called on
whole blocks of pairs, works elementwise, and is never differentiated: hardness is a weight.

A *combination* turns the weighted shares back into the distribution `P̄` that replaces InfoNCE's `P` in the
gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


class Pairs(NamedTuple):
    """A block of (query, candidate) pairs."""

    similarity: Float[Array, "rows columns"]  # s
    relative_similarity: Float[Array, "rows columns"]  # d = s - s_positive
    is_own: Bool[Array, "#rows #columns"]  # the candidate is a negative of this query alone


# (pairs, *scalar parameters) -> log weights of the pairs' shape.
LogWeight = Callable[..., jax.Array]


def relative(pairs: Pairs, alpha: Array, log_beta: Array) -> Float[Array, "rows columns"]:
    """Returns log(β exp(α d)): a negative is hard when it nears the positive; a tie gives β."""
    return log_beta + alpha * pairs.relative_similarity


def absolute(pairs: Pairs, alpha: Array, log_beta: Array) -> Float[Array, "rows columns"]:
    """Returns log(β exp(α (s - 1))): a negative is hard when it is similar, wherever its positive is."""
    return log_beta + alpha * (pairs.similarity - 1.0)


def by_origin(pairs: Pairs, shared_strength: Array, own_strength: Array) -> Float[Array, "rows columns"]:
    """Returns strength · s, with one strength for candidates of all queries and one for those of a query's own."""
    return jnp.where(pairs.is_own, own_strength, shared_strength) * pairs.similarity


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
