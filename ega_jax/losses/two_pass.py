"""Statistics first, then gradients: for rows that do not see all they are compared with at once.

On a ring of devices, columns travel, so that none holds all of them: a row's sums are known when the last
column has passed by. In a symmetric loss columns have sums of their own, over all rows, whatever the blocks of
rows. Either way the columns are visited twice: once to be summed over, once for the gradients, of both
directions at once. That is four matrix products (symmetric losses by two calls of `streaming` take six), and
memory of O((N + M) D); autodiff through one trip round a ring would keep every visitor's logits.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import blocks, collectives, products, row_block
from ega_jax.losses.problem import Columns, Embeddings, Recipe, Rows, Scalars
from ega_jax.losses.stats import LossStats
from ega_jax.losses.tour import receive, tour

if TYPE_CHECKING:
    from jaxtyping import Array, Float


# Twice as many arrays of a block's size live at once as in one pass, and a ring is there to save memory.
_MAX_ROWS_ON_CPUS = {"all_gather": 1024, "ring": 512}


class _Opposite(NamedTuple):
    """Columns as the rows of the opposite direction; those that are no row's positive have a scale of 0."""

    rows: Rows
    positive_similarity: Float[Array, " M"]


class _Visitor(NamedTuple):
    """Columns: of one device on a ring, of all otherwise."""

    targets: Float[Array, "M D"]
    norms: Float[Array, " M"]  # their inverses, as below
    columns: Columns
    opposite: _Opposite | None


class _Own(NamedTuple):
    """The negatives of each row alone."""

    negatives: Float[Array, "N K D"]
    norms: Float[Array, "N K"]


class _Resident(NamedTuple):
    """A block of this device's rows."""

    queries: Float[Array, "N D"]
    norms: Float[Array, " N"]
    own: _Own | None
    positive_similarity: Float[Array, " N"]
    rows: Rows


def evaluate(
    recipe: Recipe,
    embeddings: Embeddings,
    rows: Rows,
    columns: Columns,
    scalars: Scalars,
    *,
    with_gradient: bool,
) -> tuple[Float[Array, ""], LossStats | None, Embeddings | None]:
    """Does what `streaming.evaluate` does, symmetric losses and rings included."""
    queries, targets, temperature, negatives = embeddings
    normalize, precision = recipe.normalize, recipe.precision
    if recipe.symmetric:
        rows = rows._replace(scale=rows.scale / 2)  # the loss is the mean of two
    norms, target_norms = products.inverse_norms(queries, normalize), products.inverse_norms(targets, normalize)
    visitors = receive(recipe, _Visitor(targets, target_norms, columns, None))
    own = None if negatives is None else _Own(negatives, products.inverse_norms(negatives, normalize))
    if recipe.own_positives:
        partners, partner_norms = targets[: len(queries)], target_norms[: len(queries)]
        positive = products.paired_similarities(queries, partners, norms, partner_norms, precision)
    else:
        positive = _find_positives(recipe, queries, norms, rows, visitors)
    positive = row_block.nan_if_missing(rows, positive)
    residents = _Resident(queries, norms, own, positive, rows)
    opposite = _opposite(recipe, rows, positive, columns) if recipe.symmetric else None
    visitors = visitors._replace(opposite=opposite and receive(recipe, opposite))
    num_blocks = blocks.count_blocks(
        queries.shape[0], visitors.targets.shape[0], recipe.block_size, _MAX_ROWS_ON_CPUS[recipe.exchange]
    )
    compare = functools.partial(_compare, recipe, temperature, scalars)
    opposite_recipe = _opposite_recipe(recipe)

    def sum_over(visitor: _Visitor) -> Any:
        def block(resident: _Resident) -> Any:
            pairs, opposite_pairs = compare(resident, visitor)
            of_columns = opposite_pairs and row_block.sum_negatives(opposite_recipe, opposite_pairs)
            return of_columns, row_block.sum_negatives(recipe, pairs)

        nothing = visitor.opposite and row_block.no_negatives(opposite_recipe, visitor.norms)
        return blocks.scan(block, residents, num_blocks, merge=_merge, initial=nothing)

    no_sums = (
        opposite and row_block.no_negatives(opposite_recipe, target_norms),
        row_block.no_negatives(recipe, positive),
    )
    opposite_sums, sums = tour(recipe, sum_over, visitors, no_sums, _merge, collectives.scatter_log_sum)
    if own is not None:
        own_pairs = _compare_own(recipe, temperature, scalars, residents, columns)
        sums = row_block.merge(sums, row_block.sum_negatives(recipe, own_pairs))
    losses = row_block.row_losses(recipe, rows, positive, sums)
    loss = jnp.sum(jnp.where(rows.scale != 0, rows.scale * losses.loss, 0.0))
    opposite_losses = None
    if opposite is not None:
        opposite_losses = row_block.row_losses(opposite_recipe, *opposite, opposite_sums)
        scale = opposite.rows.scale
        loss += jnp.sum(jnp.where(scale != 0, scale * opposite_losses.loss, 0.0))
    loss = collectives.total(recipe.axis_name, loss)
    if not with_gradient:
        return loss, losses.stats, None

    def differentiate(visit: tuple[_Visitor, row_block.RowLosses | None]) -> Any:
        visitor, opposite_losses = visit

        def block(inputs: tuple[_Resident, row_block.RowLosses]) -> Any:
            resident, losses = inputs
            pairs, opposite_pairs = compare(resident, visitor)
            gradient, of_temperature = row_block.similarity_gradient(recipe, pairs, losses, temperature, resident.rows)
            if opposite_pairs is not None:
                assert opposite_losses is not None
                assert visitor.opposite is not None
                opposite = row_block.similarity_gradient(
                    opposite_recipe, opposite_pairs, opposite_losses, temperature, visitor.opposite.rows
                )
                gradient += opposite[0]
                of_temperature = blocks.add(of_temperature, opposite[1])
            gradient *= resident.norms[:, None] * visitor.norms[None, :]
            of_targets = products.target_gradients(gradient, resident.queries, precision)
            of_queries = products.query_gradients(gradient, visitor.targets, precision)
            return (of_targets, of_temperature), of_queries

        (of_targets, of_temperature), of_queries = blocks.scan(block, (residents, losses), num_blocks)
        return of_targets.T, (of_queries, of_temperature)

    no_gradients = (
        jnp.zeros_like(targets, loss.dtype),
        (jnp.zeros_like(queries, loss.dtype), jnp.zeros_like(temperature) if recipe.learnable_temperature else None),
    )
    visits = visitors, receive(recipe, opposite_losses)
    of_targets, totals = tour(recipe, differentiate, visits, no_gradients, blocks.add, collectives.scatter_total)
    of_own = None
    if own is not None:
        gradient, of_temperature = row_block.similarity_gradient(recipe, own_pairs, losses, temperature, rows)
        gradient *= norms[:, None] * own.norms
        of_queries, of_own = products.own_gradients(gradient, queries, own.negatives, precision)
        of_own = products.project(of_own, *own, normalize)
        totals = blocks.add(totals, (of_queries, of_temperature))
    of_queries, of_temperature = totals
    gradients = Embeddings(
        products.project(of_queries, queries, norms, normalize),
        products.project(of_targets, targets, target_norms, normalize),
        jnp.zeros_like(temperature) if of_temperature is None else of_temperature,
        of_own,
    )
    return loss, losses.stats, gradients


def _compare(
    recipe: Recipe, temperature: Array, scalars: Scalars, resident: _Resident, visitor: _Visitor
) -> tuple[row_block.Comparison, row_block.Comparison | None]:
    """Compares rows with columns and, in a symmetric loss, columns with rows."""
    rows, columns = resident.rows, visitor.columns
    similarity = products.similarities(
        resident.queries, visitor.targets, resident.norms, visitor.norms, recipe.precision
    )
    pairs = row_block.compare(recipe, similarity, resident.positive_similarity, temperature, rows, columns, scalars)
    if visitor.opposite is None:
        return pairs, None
    opposite_rows, positive = visitor.opposite
    opposite_rows = opposite_rows._replace(mask=rows.mask)  # laid out as the pairs are
    # Queries of weight 0 are no negatives.
    opposite_columns = Columns(rows.numbers, rows.numbers, rows.keys, mask=rows.scale != 0)
    return pairs, row_block.compare(
        _opposite_recipe(recipe), similarity, positive, temperature, opposite_rows, opposite_columns, scalars
    )


def _compare_own(
    recipe: Recipe, temperature: Array, scalars: Scalars, resident: _Resident, columns: Columns
) -> row_block.Comparison:
    assert resident.own is not None
    similarity = products.own_similarities(
        resident.queries, resident.own.negatives, resident.norms, resident.own.norms, recipe.precision
    )
    no_columns = jax.tree.map(lambda x: x[:0], columns)
    rows = resident.rows._replace(mask=None)
    return row_block.compare(recipe, similarity, resident.positive_similarity, temperature, rows, no_columns, scalars)


def _opposite_recipe(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, mask_transposed=True, columns_first=True, with_stats=False)


def _opposite(recipe: Recipe, rows: Rows, positive: Float[Array, " N"], columns: Columns) -> _Opposite:
    """Turns this device's columns into rows: each looks for the row whose positive it is, if there is one."""
    num_columns = columns.numbers.shape[0]
    if recipe.own_positives:
        padding = (0, num_columns - positive.shape[0])
        scale, similarity = jnp.pad(rows.scale, padding), jnp.pad(positive, padding)
        owners = jnp.pad(rows.numbers, padding, constant_values=-1)
    else:
        places = jnp.where(rows.scale != 0, rows.positives, -1)

        def at_columns(values: Array) -> Array:
            of_all = jnp.zeros((num_columns * collectives.size(recipe.axis_name),), values.dtype)
            of_all = of_all.at[places].add(values, mode="drop", wrap_negative_indices=False)
            return collectives.scatter_total(recipe.axis_name, of_all)

        count = at_columns(jnp.ones_like(places))
        scale, owners = at_columns(rows.scale), jnp.where(count == 0, -1, at_columns(rows.numbers))
        # Under jit a broken promise that no two rows share a positive cannot be refused.
        similarity = jnp.where(count > 1, jnp.nan, at_columns(positive))
    return _Opposite(Rows(scale, owners, columns.numbers, columns.keys), similarity)


def _find_positives(recipe: Recipe, queries: Array, norms: Array, rows: Rows, visitors: _Visitor) -> Float[Array, " N"]:
    """Finds each row's similarity to its positive, which may be any device's column."""

    def look_among(visitor: _Visitor) -> tuple[None, Array]:
        places = rows.positives - visitor.columns.positions[0]
        is_here = (places >= 0) & (places < visitor.targets.shape[0])
        places = jnp.where(is_here, places, 0)
        similarity = products.paired_similarities(
            queries, visitor.targets[places], norms, visitor.norms[places], recipe.precision
        )
        return None, jnp.where(is_here, similarity, 0.0)

    nothing = None, jnp.zeros_like(norms)
    return tour(recipe, look_among, visitors, nothing, blocks.add, collectives.scatter_total)[1]


def _merge(some: Any, others: Any) -> Any:
    """Merges trees of sums over negatives."""
    is_sums = lambda x: isinstance(x, row_block.NegativeSums)  # noqa: E731
    return jax.tree.map(row_block.merge, some, others, is_leaf=is_sums)
