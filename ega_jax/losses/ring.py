"""Columns travel round a ring of devices, so that none holds all of them.

The sums over a row's negatives must be known before any gradient, so the columns go round twice: once to be
summed over, once to collect their own gradients. That is four matrix products, and memory of this device's rows
and columns alone; autodiff through one trip round would keep every visitor's logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import blocks, collectives, products, row_block
from ega_jax.losses.problem import Columns, Embeddings, Recipe, Rows, Scalars
from ega_jax.losses.stats import LossStats

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class _Visitor(NamedTuple):
    """The columns of one device."""

    targets: Float[Array, "M D"]
    norms: Float[Array, " M"]  # their inverses, as below
    columns: Columns


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
    """Does inside `shard_map` what `streaming.evaluate` does, without gathering."""
    queries, targets, temperature, negatives = embeddings
    normalize, precision, num_rows = recipe.normalize, recipe.precision, queries.shape[0]
    home = _Visitor(targets, products.inverse_norms(targets, normalize), columns)
    norms = products.inverse_norms(queries, normalize)
    own = None if negatives is None else _Own(negatives, products.inverse_norms(negatives, normalize))
    positive = _positive_similarities(recipe, queries, norms, rows, home)
    residents = _Resident(queries, norms, own, positive, rows)
    num_blocks = blocks.count_blocks(num_rows, targets.shape[0], recipe.block_size)

    def compare(resident: _Resident, visitor: _Visitor) -> row_block.Comparison:
        similarity = products.similarities(resident.queries, visitor.targets, resident.norms, visitor.norms, precision)
        return row_block.compare(
            recipe, similarity, resident.positive_similarity, temperature, resident.rows, visitor.columns, scalars
        )

    def compare_own(resident: _Resident) -> row_block.Comparison:
        assert resident.own is not None
        similarity = products.own_similarities(
            resident.queries, resident.own.negatives, resident.norms, resident.own.norms, precision
        )
        no_columns = jax.tree.map(lambda x: x[:0], columns)
        return row_block.compare(
            recipe, similarity, resident.positive_similarity, temperature, resident.rows, no_columns, scalars
        )

    def sum_over(visitor: _Visitor, sums: Any) -> tuple[_Visitor, Any]:
        def block(resident: _Resident) -> tuple[None, row_block.NegativeSums]:
            return None, row_block.sum_negatives(recipe, compare(resident, visitor))

        _, more = blocks.scan(block, residents, num_blocks)
        return visitor, row_block.merge(sums, more)

    _, sums = _round_trip(recipe, sum_over, home, row_block.no_negatives(recipe, positive))
    if own is not None:
        sums = row_block.merge(sums, row_block.sum_negatives(recipe, compare_own(residents)))
    losses = row_block.row_losses(recipe, rows, positive, sums)
    scaled = jnp.where(rows.scale != 0, rows.scale * losses.loss, 0.0)
    loss = collectives.total(recipe.axis_name, jnp.sum(scaled))
    if not with_gradient:
        return loss, losses.stats, None

    def differentiate(traveller: tuple[_Visitor, Array], totals: Any) -> Any:
        visitor, of_targets = traveller

        def block(inputs: tuple[_Resident, row_block.RowLosses]) -> tuple[Any, Array]:
            resident, losses = inputs
            gradient, of_temperature = row_block.similarity_gradient(
                recipe, compare(resident, visitor), losses, temperature, resident.rows
            )
            gradient *= resident.norms[:, None] * visitor.norms[None, :]
            of_targets = products.target_gradients(gradient, resident.queries, precision)
            of_queries = products.query_gradients(gradient, visitor.targets, precision)
            return (of_targets, of_temperature), of_queries

        (more, of_temperature), of_queries = blocks.scan(block, (residents, losses), num_blocks)
        return (visitor, of_targets + more), jax.tree.map(jnp.add, totals, (of_queries, of_temperature))

    dtype = loss.dtype
    traveller = (home, jnp.zeros_like(targets, dtype))
    totals = (jnp.zeros_like(queries, dtype), jnp.zeros_like(temperature) if recipe.learnable_temperature else None)
    (_, of_targets), totals = _round_trip(recipe, differentiate, traveller, totals)
    of_own = None
    if own is not None:
        gradient, of_temperature = row_block.similarity_gradient(
            recipe, compare_own(residents), losses, temperature, rows
        )
        gradient *= norms[:, None] * own.norms
        of_queries, of_own = products.own_gradients(gradient, queries, own.negatives, precision)
        of_own = products.project(of_own, *own, normalize)
        totals = jax.tree.map(jnp.add, totals, (of_queries, of_temperature))
    of_queries, of_temperature = totals
    gradients = Embeddings(
        products.project(of_queries, queries, norms, normalize),
        products.project(of_targets, targets, home.norms, normalize),
        jnp.zeros_like(temperature) if of_temperature is None else of_temperature,
        of_own,
    )
    return loss, losses.stats, gradients


def _positive_similarities(
    recipe: Recipe, queries: Array, norms: Array, rows: Rows, home: _Visitor
) -> Float[Array, " N"]:
    """Finds each row's similarity to its positive, which may be on another device."""

    def look_among(visitor: _Visitor, found: Array) -> tuple[_Visitor, Array]:
        places = rows.positives - visitor.columns.positions[0]
        is_here = (places >= 0) & (places < visitor.targets.shape[0])
        places = jnp.where(is_here, places, 0)
        similarity = products.own_similarities(
            queries, visitor.targets[places][:, None], norms, visitor.norms[places][:, None], recipe.precision
        )
        return visitor, found + jnp.where(is_here, similarity[:, 0], 0.0)

    found = jnp.zeros_like(norms)
    if recipe.own_positives:
        _, found = look_among(home, found)
    else:
        _, found = _round_trip(recipe, look_among, home, found)
    return row_block.nan_if_missing(rows, found)


def _round_trip(recipe: Recipe, visit: Any, traveller: Any, totals: Any) -> Any:
    """Calls `traveller, totals = visit(traveller, totals)` on every device in turn, until the travellers are home."""
    devices = collectives.size(recipe.axis_name)
    to_next = [(device, (device + 1) % devices) for device in range(devices)]

    def hop(state: Any, _: None) -> tuple[Any, None]:
        traveller, totals = visit(*state)
        return (jax.lax.ppermute(traveller, recipe.axis_name, to_next), totals), None

    return jax.lax.scan(hop, (traveller, totals), None, length=devices)[0]
