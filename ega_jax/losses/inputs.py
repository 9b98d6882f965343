"""Checks what the user passes to a loss and lays it out for the kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import masks, products
from ega_jax.losses.problem import Columns, Embeddings, Recipe, Rows, Scalars

if TYPE_CHECKING:
    from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that all contrastive losses share; `ega_loss` says what each means."""

    negatives: Any = None
    temperature: Any = 0.02
    positives: Any = None
    query_ids: Any = None
    target_ids: Any = None
    mask: Any = None
    mask_args: tuple[Any, ...] = ()
    target_mask: Any = None
    weights: Any = None
    negative_weights: Any = None
    top_k: int | None = None
    false_negative_margin: Any = None
    symmetric: bool = False
    normalize: bool = True
    precision: Any = None
    block_size: int | None = None
    reduction: str = "mean"
    return_stats: bool = False


class Problem(NamedTuple):
    """What the kernel eats."""

    recipe: Recipe
    embeddings: Embeddings
    rows: Rows
    columns: Columns
    scalars: Scalars


def prepare(
    queries: Any, targets: Any, options: Options, recipe: Recipe, weight_parameters: tuple[Any, ...]
) -> tuple[Problem, Float[Array, " N"]]:
    """Lays out the query-to-target problem.

    Returns:
        The problem, and the row weights (ones where none were given).

    Raises:
        ValueError: A shape or a choice is wrong.
        TypeError: A dtype is wrong.
    """
    queries, targets, own_negatives, num_targets = _embeddings(queries, targets, options.negatives)
    num_rows, num_columns = queries.shape[0], targets.shape[0]
    dtype = products.accumulator_dtype(queries.dtype)
    if options.positives is None and num_targets < num_rows:
        raise ValueError(
            f"{num_rows} queries but only {num_targets} targets: each query's positive is the target of "
            "the same row, unless positives=(N,) says otherwise"
        )
    if options.reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean" or "sum", got {options.reduction!r}')
    if options.block_size is not None and options.block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {options.block_size}")
    if options.top_k is not None and options.top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {options.top_k}")

    def by_column(name: str, values: Any) -> Array | None:
        return _vector(name, values, num_columns, num_targets)

    weights = _vector("weights", options.weights, num_rows)
    positives = _vector("positives", options.positives, num_rows)
    if positives is None:
        positives = jnp.arange(num_rows, dtype=jnp.int32)
    query_ids = _vector("query_ids", options.query_ids, num_rows)
    target_ids = by_column("target_ids", options.target_ids)
    if (query_ids is None) != (target_ids is None):
        raise ValueError("query_ids and target_ids go together: a target is no negative of a query of equal id")
    target_mask = by_column("target_mask", options.target_mask)
    for name, values, kind in (
        ("positives", positives, jnp.integer),
        ("query_ids", query_ids, jnp.integer),
        ("target_ids", target_ids, jnp.integer),
        ("target_mask", target_mask, jnp.bool_),
    ):
        if values is not None and not jnp.issubdtype(values.dtype, kind):
            expected = "integers" if kind is jnp.integer else "booleans"
            raise TypeError(f"{name} must be {expected}, got {values.dtype}")
    mask, mask_fn = _mask(options, num_rows, num_columns, num_targets)

    # Padding may hold NaN, and 0 * NaN would reach everyone through the products.
    if weights is not None:
        weights = jax.lax.stop_gradient(weights.astype(dtype))
        queries = jnp.where((weights > 0)[:, None], queries, 0)
        if own_negatives is not None:
            own_negatives = jnp.where((weights > 0)[:, None, None], own_negatives, 0)
    own_weights = _own_weights(options.negative_weights, own_negatives, dtype)
    if own_weights is not None and own_negatives is not None:
        own_negatives = jnp.where((own_weights > 0)[:, :, None], own_negatives, 0)
    row_weights = jnp.ones((num_rows,), dtype) if weights is None else weights
    has_keys = None
    if target_mask is not None:
        target_mask = _pad(target_mask, num_columns, True)
        used = target_mask.at[positives].max(row_weights > 0, mode="drop")
        targets = jnp.where(used[:, None], targets, 0)
    if target_ids is not None and target_ids.shape[0] < num_columns:
        has_keys = jnp.arange(num_columns) < num_targets
        target_ids = _pad(target_ids, num_columns, 0)

    total = jnp.sum(row_weights) if options.reduction == "mean" else jnp.ones((), dtype)
    margin = options.false_negative_margin
    problem = Problem(
        dataclasses.replace(
            recipe,
            mask_fn=mask_fn,
            normalize=options.normalize,
            precision=options.precision,
            learnable_temperature=not isinstance(options.temperature, (int, float)),
            with_stats=options.return_stats,
            block_size=options.block_size,
            top_k=options.top_k,
        ),
        Embeddings(
            queries,
            targets,
            scalar("temperature", options.temperature, dtype, positive=True),
            own_negatives,
        ),
        Rows(
            scale=jnp.where(total > 0, row_weights / jnp.where(total > 0, total, 1.0), 0.0),
            positives=positives.astype(jnp.int32),
            numbers=jnp.arange(num_rows, dtype=jnp.int32),
            keys=() if query_ids is None else (query_ids,),
            mask=mask,
            own_weights=own_weights,
        ),
        Columns(
            numbers=jnp.arange(num_columns, dtype=jnp.int32),
            keys=() if target_ids is None else (target_ids,),
            has_keys=has_keys,
            mask=target_mask,
        ),
        Scalars(
            weight_parameters=weight_parameters,
            false_negative_margin=None if margin is None else scalar("false_negative_margin", margin, dtype),
            mask_args=jax.tree.map(jnp.asarray, tuple(options.mask_args)),
        ),
    )
    return problem, row_weights


def transpose(problem: Problem) -> Problem:
    """Lays out the target-to-query problem: the positive of each query against all queries.

    Queries of weight 0 are no negatives, nor are those that share the positive. Own negatives have no part in
    it.
    """
    recipe, embeddings, rows, columns, scalars = problem
    queries, targets, temperature, _ = embeddings
    num_rows = queries.shape[0]

    def of_positive(values: Array) -> Array:
        return values[rows.positives]

    keys = [(of_positive(column), row) for row, column in zip(rows.keys, columns.keys, strict=True)]
    keys.append((rows.positives, rows.positives))
    return Problem(
        dataclasses.replace(recipe, mask_transposed=True, with_stats=False),
        Embeddings(of_positive(targets), queries, temperature),
        Rows(
            scale=rows.scale,
            positives=jnp.arange(num_rows, dtype=jnp.int32),
            numbers=of_positive(columns.numbers),
            keys=tuple(row for row, _ in keys),
            mask=None if rows.mask is None else rows.mask[:, rows.positives].T,
        ),
        Columns(
            numbers=rows.numbers,
            keys=tuple(column for _, column in keys),
            mask=rows.scale > 0,
        ),
        scalars,
    )


def _embeddings(queries: Any, targets: Any, negatives: Any) -> tuple[Array, Array, Array | None, int]:
    """Returns queries, targets and shared negatives in one, own negatives, and how many are targets."""
    arrays = {"queries": jnp.asarray(queries), "targets": jnp.asarray(targets)}
    if negatives is not None:
        arrays["negatives"] = jnp.asarray(negatives)
    for name, array in arrays.items():
        if array.ndim != 2 and not (name == "negatives" and array.ndim == 3):
            expected = "(K, D) or (N, K, D)" if name == "negatives" else "(rows, features)"
            raise ValueError(f"{name} must have shape {expected}, got {array.shape}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating point, got {array.dtype}")
    features = {name: array.shape[-1] for name, array in arrays.items()}
    if len(set(features.values())) > 1:
        raise ValueError(f"queries, targets and negatives must have equally many features, got {features}")
    if arrays["queries"].shape[0] == 0 or arrays["targets"].shape[0] == 0:
        raise ValueError("a loss needs at least one query and one target")
    dtype = jnp.result_type(*arrays.values())
    queries, targets, *others = (array.astype(dtype) for array in arrays.values())
    num_targets = targets.shape[0]
    if not others:
        return queries, targets, None, num_targets
    if others[0].ndim == 2:
        return queries, jnp.concatenate([targets, others[0]]), None, num_targets
    if others[0].shape[0] != queries.shape[0]:
        raise ValueError(
            f"negatives of shape (N, K, D) are those of each query: {queries.shape[0]} queries, but negatives "
            f"of shape {others[0].shape}"
        )
    return queries, targets, others[0] if others[0].shape[1] else None, num_targets


def _own_weights(negative_weights: Any, own_negatives: Array | None, dtype: Any) -> Array | None:
    if negative_weights is None:
        return None
    if own_negatives is None:
        raise ValueError(
            "negative_weights weigh negatives of shape (N, K, D); shared negatives are left out by target_mask"
        )
    negative_weights = jnp.asarray(negative_weights)
    if negative_weights.shape != own_negatives.shape[:2]:
        raise ValueError(f"negative_weights must have shape {own_negatives.shape[:2]}, got {negative_weights.shape}")
    return jax.lax.stop_gradient(negative_weights.astype(dtype))


def _vector(name: str, values: Any, *lengths: int) -> Array | None:
    if values is None:
        return None
    values = jnp.asarray(values)
    if values.ndim != 1 or values.shape[0] not in lengths:
        expected = " or ".join(f"({length},)" for length in dict.fromkeys(lengths))
        raise ValueError(f"{name} must have shape {expected}, got {values.shape}")
    return values


def _mask(
    options: Options, num_rows: int, num_columns: int, num_targets: int
) -> tuple[Array | None, Callable[..., Any] | None]:
    if callable(options.mask):
        masks.check_mask_fn(options.mask)
        return None, options.mask
    if options.mask_args:
        raise ValueError("mask_args go with a mask function; mask is " + type(options.mask).__name__)
    if options.mask is None:
        return None, None
    mask = jnp.asarray(options.mask)
    if mask.shape not in ((num_rows, num_columns), (num_rows, num_targets)):
        raise ValueError(f"mask must have shape ({num_rows}, {num_columns}), got {mask.shape}")
    if mask.dtype != jnp.bool_:
        raise TypeError(f"mask must be boolean (True = the pair counts), got {mask.dtype}")
    return jnp.pad(mask, ((0, 0), (0, num_columns - mask.shape[1])), constant_values=True), None


def _pad(values: Array, length: int, value: Any) -> Array:
    return jnp.pad(values, (0, length - values.shape[0]), constant_values=value)


def scalar(name: str, value: Any, dtype: Any, *, positive: bool = False) -> Array:
    if isinstance(value, (int, float)) and positive and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}")
    return jnp.asarray(value, dtype)
