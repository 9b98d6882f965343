"""Which pairs count as negatives."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ega_jax.losses.problem import Columns, Recipe, Rows, Scalars

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


def by_row(recipe: Recipe, values: Array) -> Array:
    """Lays out values of rows so that they broadcast over pairs."""
    return values[None, :] if recipe.columns_first else values[:, None]


def by_column(recipe: Recipe, values: Array) -> Array:
    """Lays out values of columns likewise."""
    return values[:, None] if recipe.columns_first else values[None, :]


def column_axis(recipe: Recipe) -> int:
    """Returns the axis of an array of pairs along which a row's columns lie."""
    return 0 if recipe.columns_first else 1


def positive_pairs(recipe: Recipe, rows: Rows, columns: Columns, num_candidates: int) -> Bool[Array, "N M+K"]:
    """Marks each row's positive among the columns and, behind them, its own negatives."""
    is_positive = by_column(recipe, columns.positions) == by_row(recipe, rows.positives)
    num_own = num_candidates - columns.positions.shape[0]
    return jnp.pad(is_positive, ((0, 0), (0, num_own))) if num_own else is_positive


def negative_pairs(
    recipe: Recipe, rows: Rows, columns: Columns, scalars: Scalars, relative_similarity: Float[Array, "N M+K"]
) -> Bool[Array, "N M+K"]:
    """Marks the pairs that count as negatives: all but the positives and what some mask leaves out."""
    keep = _negative_columns(recipe, rows, columns, scalars)
    num_own = relative_similarity.shape[1] - keep.shape[1]
    if num_own:  # which follow the columns: never columns first
        own = jnp.ones((keep.shape[0], num_own), bool) if rows.own_weights is None else rows.own_weights != 0
        keep = jnp.concatenate([keep, own], axis=1)
    # Comparisons leave out what they hold for, so that NaN is kept and seen.
    if scalars.false_negative_margin is not None:
        keep &= ~(relative_similarity > scalars.false_negative_margin)
    axis = column_axis(recipe)
    if recipe.top_k is not None and recipe.top_k < keep.shape[axis]:
        # Negatives that are left out come last; with too few others they are the threshold, and stay out.
        candidates = jnp.where(keep, relative_similarity, -jnp.inf)
        threshold = jax.lax.top_k(jnp.moveaxis(candidates, axis, 1), recipe.top_k)[0][:, -1]
        keep &= ~(candidates < by_row(recipe, threshold))
    return keep


def _negative_columns(recipe: Recipe, rows: Rows, columns: Columns, scalars: Scalars) -> Bool[Array, "N M"]:
    keep = ~positive_pairs(recipe, rows, columns, columns.numbers.shape[0])
    if columns.mask is not None:
        keep &= by_column(recipe, columns.mask)
    for row_key, column_key in zip(rows.keys, columns.keys, strict=True):
        equal = by_row(recipe, row_key) == by_column(recipe, column_key)
        keep &= ~equal if columns.has_keys is None else ~(equal & by_column(recipe, columns.has_keys))
    if rows.mask is not None:
        keep &= rows.mask
    if recipe.mask_fn is not None:
        keep &= _call_mask_fn(recipe, rows, columns, scalars)
    return keep


def _call_mask_fn(recipe: Recipe, rows: Rows, columns: Columns, scalars: Scalars) -> Bool[Array, "N M"]:
    assert recipe.mask_fn is not None
    row_numbers, column_numbers = by_row(recipe, rows.numbers), by_column(recipe, columns.numbers)
    shape = jnp.broadcast_shapes(row_numbers.shape, column_numbers.shape)
    if recipe.mask_transposed:
        row_numbers, column_numbers = column_numbers, row_numbers
    keep = jnp.asarray(recipe.mask_fn(row_numbers, column_numbers, *scalars.mask_args))
    if keep.dtype != jnp.bool_:
        raise TypeError(f"mask_fn must return booleans (True = the pair counts), got {keep.dtype}")
    if keep.ndim > 2 or any(size not in (1, n) for size, n in zip(keep.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"mask_fn returned shape {keep.shape}, which does not broadcast to the block's {shape}")
    return keep


def check_mask_fn(mask_fn: Any) -> None:
    """Refuses a mask function that closes over traced values: the kernel calls it under its own tracing.

    Raises:
        TypeError: It does, as far as its closure, defaults and partial arguments show.
    """
    function, held = mask_fn, []
    while isinstance(function, functools.partial):
        held += [*function.args, *function.keywords.values()]
        function = function.func
    held += list(getattr(function, "__defaults__", None) or ())
    for cell in getattr(function, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # a name that is bound later
            continue
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(held)):
        raise TypeError(
            "mask_fn closes over a traced array, which fails under scan, remat and vmap: "
            "pass the array through mask_args, as in ega_loss(..., mask=mask_fn, mask_args=(array,))"
        )
