"""SigLIP's loss, pair by pair: no pair knows of another, so blocks of rows and of columns may come in any order.

With logits `z = s / τ + b`, a positive pair costs `softplus(-z)` and a negative one `softplus(z)`. Value and gradient
come out of one pass over the pairs: three matrix products, with the columns of all devices gathered as on a ring, where
columns go round once and collect their gradients on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import blocks, collectives, masks, products, row_block
from ega_jax.losses.problem import Columns, Recipe, Rows, Scalars
from ega_jax.losses.tour import receive, tour

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class BiasedEmbeddings(NamedTuple):
    """What the loss is differentiated by: `problem.Embeddings`, and a bias."""

    queries: Float[Array, "N D"]
    targets: Float[Array, "M D"]
    temperature: Float[Array, ""]
    own_negatives: Float[Array, "N K D"] | None
    bias: Float[Array, ""]


class _Visitor(NamedTuple):
    """Columns, those of all devices or of one."""

    targets: Float[Array, "M D"]
    norms: Float[Array, " M"]  # their inverses, as below
    columns: Columns


class _Resident(NamedTuple):
    """A block of this device's rows."""

    queries: Float[Array, "N D"]
    norms: Float[Array, " N"]
    rows: Rows


class _Sums(NamedTuple):
    """Sums over pairs. Gradients are None where none are asked for."""

    loss: Float[Array, ""]
    of_temperature: Float[Array, ""] | None = None
    of_bias: Float[Array, ""] | None = None


def evaluate(
    recipe: Recipe,
    embeddings: BiasedEmbeddings,
    rows: Rows,
    columns: Columns,
    scalars: Scalars,
    *,
    with_gradient: bool,
) -> tuple[Float[Array, ""], None, BiasedEmbeddings | None]:
    """Returns Σ scale · loss, no statistics, and the gradients if they are asked for; see `streaming.evaluate`."""
    queries, targets, temperature, negatives, bias = embeddings
    normalize, precision, axis_name = recipe.normalize, recipe.precision, recipe.axis_name
    norms = products.inverse_norms(queries, normalize)
    # A row whose positive is nowhere is NaN, as are the losses of `row_block`.
    rows = rows._replace(scale=row_block.nan_if_missing(rows, rows.scale))

    home = _Visitor(targets, products.inverse_norms(targets, normalize), columns)
    visitors = receive(recipe, home)
    num_blocks = blocks.count_blocks(queries.shape[0], visitors.targets.shape[0], recipe.block_size)

    def visit(visitor: _Visitor) -> Any:
        """Returns the gradient by the visitor's columns, and this device's sums and gradient by its rows."""

        def block(resident: _Resident) -> Any:
            similarity = products.similarities(
                resident.queries, visitor.targets, resident.norms, visitor.norms, precision
            )
            is_positive = masks.positive_pairs(recipe, resident.rows, visitor.columns, similarity.shape[1])
            is_negative = masks.negative_pairs(recipe, resident.rows, visitor.columns, scalars, similarity)
            sign = is_negative.astype(similarity.dtype) - is_positive.astype(similarity.dtype)
            weight = jnp.abs(sign) * resident.rows.scale[:, None]
            sums, gradient = _pair_losses(similarity, sign, weight, temperature, bias, with_gradient)
            if gradient is None:
                return (sums, None), None
            gradient *= resident.norms[:, None] * visitor.norms[None, :]
            of_targets = products.target_gradients(gradient, resident.queries, precision)
            return (sums, of_targets), products.query_gradients(gradient, visitor.targets, precision)

        (sums, of_targets), of_queries = blocks.scan(block, _Resident(queries, norms, rows), num_blocks)
        return None if of_targets is None else of_targets.T, (sums, of_queries)

    zero = jnp.zeros_like(temperature)
    nothing: Any = None, (_Sums(zero), None)
    if with_gradient:
        of_nothing = jnp.zeros_like(targets, zero.dtype), jnp.zeros_like(queries, zero.dtype)
        nothing = of_nothing[0], (_Sums(zero, zero, zero), of_nothing[1])
    of_targets, (sums, of_queries) = tour(recipe, visit, visitors, nothing, blocks.add, collectives.scatter_total)
    of_own = None
    if negatives is not None:
        own_norms = products.inverse_norms(negatives, normalize)
        similarity = products.own_similarities(queries, negatives, norms, own_norms, precision)
        count = jnp.ones_like(similarity) if rows.own_weights is None else rows.own_weights
        weight = count * rows.scale[:, None]
        of_pairs, gradient = _pair_losses(similarity, jnp.ones_like(weight), weight, temperature, bias, with_gradient)
        sums = blocks.add(sums, of_pairs)
        if gradient is not None:
            gradient *= norms[:, None] * own_norms
            more, of_own = products.own_gradients(gradient, queries, negatives, precision)
            of_queries += more
            of_own = products.project(of_own, negatives, own_norms, normalize)
    loss = collectives.total(axis_name, sums.loss)
    if not with_gradient:
        return loss, None, None
    gradients = BiasedEmbeddings(
        products.project(of_queries, queries, norms, normalize),
        products.project(of_targets, targets, home.norms, normalize),
        sums.of_temperature,
        of_own,
        sums.of_bias,
    )
    return loss, None, gradients


def _pair_losses(
    similarity: Float[Array, "N M"],
    sign: Float[Array, "N M"],
    weight: Float[Array, "N M"],
    temperature: Float[Array, ""],
    bias: Float[Array, ""],
    with_gradient: bool,
) -> tuple[_Sums, Float[Array, "N M"] | None]:
    """Sums Σ weight · softplus(sign · z), with its derivatives; also returns that by each similarity.

    The sign is -1 for a positive pair, 1 for a negative one; where the weight is 0 nothing counts, NaN neither.
    """
    counts = weight != 0
    logits = sign * (similarity / temperature + bias)
    loss = jnp.sum(jnp.where(counts, weight * jax.nn.softplus(logits), 0.0))
    if not with_gradient:
        return _Sums(loss), None
    of_logits = jnp.where(counts, weight * sign * jax.nn.sigmoid(logits), 0.0)
    gradient = of_logits / temperature
    of_temperature = -jnp.sum(jnp.where(counts, gradient * similarity, 0.0)) / temperature
    return _Sums(loss, of_temperature, jnp.sum(of_logits)), gradient
