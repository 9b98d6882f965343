"""Streams blocks of rows over all columns.

A block sees all columns, so its sums are final at once, and its rows of the queries' gradient and its share of
the targets' come out of the same pass: three matrix products, no N x M array.

Over a mesh, each device has rows and columns of its own. It gathers the columns of all, and the targets'
gradients are summed back to where they belong: one all-gather, one reduce-scatter, one all-reduce of a scalar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from ega_jax.losses import blocks, collectives, products, row_block
from ega_jax.losses.problem import Columns, Embeddings, Recipe, Rows, Scalars
from ega_jax.losses.stats import LossStats

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def evaluate(
    recipe: Recipe,
    embeddings: Embeddings,
    rows: Rows,
    columns: Columns,
    scalars: Scalars,
    *,
    with_gradient: bool,
) -> tuple[Float[Array, ""], LossStats | None, Embeddings | None]:
    """Returns Σ scale · loss, the rows' statistics and the gradients, the last two if they are asked for."""
    queries, local_targets, temperature, own_negatives = embeddings
    normalize, precision, axis_name = recipe.normalize, recipe.precision, recipe.axis_name
    local_target_norms = products.inverse_norms(local_targets, normalize)
    targets, target_norms, columns = collectives.gather(axis_name, (local_targets, local_target_norms, columns))
    num_rows, num_columns = queries.shape[0], targets.shape[0]

    def block(inputs: tuple[Array, Array | None, Rows]) -> tuple[_Sums, _RowOutputs]:
        queries, own, rows = inputs
        norms = products.inverse_norms(queries, normalize)
        similarity = products.similarities(queries, targets, norms, target_norms, precision)
        if own is not None:
            own_norms = products.inverse_norms(own, normalize)
            of_own = products.own_similarities(queries, own, norms, own_norms, precision)
            similarity = jnp.concatenate([similarity, of_own], axis=1)
        positive = row_block.positive_similarities(similarity, rows)
        pairs = row_block.compare(recipe, similarity, positive, temperature, rows, columns, scalars)
        losses = row_block.row_losses(recipe, rows, positive, row_block.sum_negatives(recipe, pairs))
        loss = jnp.sum(jnp.where(rows.scale != 0, rows.scale * losses.loss, 0.0))
        if not with_gradient:
            return _Sums(loss), _RowOutputs(losses.stats)

        all_gradients, of_temperature = row_block.similarity_gradient(recipe, pairs, losses, temperature, rows)
        # With both norms in it, one array serves both products.
        gradient = all_gradients[:, :num_columns] * norms[:, None] * target_norms[None, :]
        query_gradient = products.query_gradients(gradient, targets, precision)
        target_gradient = products.target_gradients(gradient, queries, precision)
        own_gradient = None
        if own is not None:
            gradient = all_gradients[:, num_columns:] * norms[:, None] * own_norms
            more, own_gradient = products.own_gradients(gradient, queries, own, precision)
            query_gradient += more
            own_gradient = products.project(own_gradient, own, own_norms, normalize)
        query_gradient = products.project(query_gradient, queries, norms, normalize)
        return (
            _Sums(loss, target_gradient, of_temperature),
            _RowOutputs(losses.stats, query_gradient, own_gradient),
        )

    num_blocks = blocks.count_blocks(num_rows, num_columns, recipe.block_size)
    sums, outputs = blocks.scan(block, (queries, own_negatives, rows), num_blocks)

    loss = collectives.total(axis_name, sums.loss)
    if sums.target_gradient is None or outputs.query_gradient is None:
        return loss, outputs.stats, None
    target_gradient = collectives.scatter_total(axis_name, sums.target_gradient.T)
    gradients = Embeddings(
        outputs.query_gradient,
        products.project(target_gradient, local_targets, local_target_norms, normalize),
        jnp.zeros_like(temperature) if sums.temperature_gradient is None else sums.temperature_gradient,
        outputs.own_gradient,
    )
    return loss, outputs.stats, gradients


class _Sums(NamedTuple):
    """What is summed over blocks. Gradients are None where none are asked for."""

    loss: Float[Array, ""]
    target_gradient: Float[Array, "D M"] | None = None
    temperature_gradient: Float[Array, ""] | None = None


class _RowOutputs(NamedTuple):
    """What each row gets. Gradients are None where none are asked for."""

    stats: LossStats | None
    query_gradient: Float[Array, "N D"] | None = None
    own_gradient: Float[Array, "N K D"] | None = None
