"""Checks what the user passes to a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ega_jax.losses import collectives, masks, products

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that all contrastive losses share; `ega_loss` says what each means."""

    negatives: Any = None
    temperature: Any = 0.02
    positives: Any = None
    distinct_positives: bool = False
    query_ids: Any = None
    target_ids: Any = None
    mask: Any = None
    mask_args: tuple[Any, ...] = ()
    target_mask: Any = None
    weights: Any = None
    negative_weights: Any = None
    false_negative_margin: Any = None
    top_k: int | None = None
    symmetric: bool = False
    normalize: bool = True
    precision: Any = None
    block_size: int | None = None
    axis_name: collectives.AxisName = None
    exchange: str = "all_gather"
    reduction: str = "mean"
    return_stats: bool = False

    @property
    def both_directions_at_once(self) -> bool:
        """A symmetric loss takes one call: not where rows may share a positive, nor if top-k needs a column's rows."""
        distinct = self.positives is None or self.distinct_positives
        return self.symmetric and distinct and self.top_k is None


class Inputs(NamedTuple):
    """Checked arrays. With `axis_name`, N, M and K are this device's, and the mask covers the columns of all."""

    queries: Float[Array, "N D"]
    targets: Float[Array, "M D"]
    shared_negatives: Float[Array, "K D"] | None
    own_negatives: Float[Array, "N K D"] | None
    own_weights: Float[Array, "N K"] | None
    weights: Float[Array, " N"] | None
    positives: Int[Array, " N"] | None
    query_ids: Int[Array, " N"] | None
    target_ids: Int[Array, " columns"] | None
    target_mask: Bool[Array, " columns"] | None
    mask: Bool[Array, "N all_columns"] | None
    mask_fn: Callable[..., Any] | None


def check(queries: Any, targets: Any, options: Options) -> Inputs:
    """Returns the arrays among a loss's arguments.

    Raises:
        ValueError: A shape or a choice is wrong.
        TypeError: A dtype is wrong.
    """
    if options.reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean" or "sum", got {options.reduction!r}')
    for name in ("block_size", "top_k"):
        value = getattr(options, name)
        if value is not None and not (isinstance(value, (int, np.integer)) and value >= 1):
            raise ValueError(f"{name} must be at least 1, an integer, got {value}")
    if not isinstance(options.mask_args, (tuple, list)):
        raise TypeError("mask_args must be a tuple of arrays; of a single one: mask_args=(array,)")
    collectives.check(options.axis_name)
    if options.exchange == "ring":
        _check_ring(options)

    queries, targets, shared, own = _embeddings(queries, targets, options.negatives)
    rows, columns = queries.shape[0], targets.shape[0]
    if options.positives is None and columns < rows:
        raise ValueError(
            f"{rows} queries but only {columns} targets: each query's positive is the target of the same row, "
            "unless positives=(N,) says otherwise"
        )
    all_columns = columns if shared is None else columns + shared.shape[0]
    devices = collectives.size(options.axis_name)
    mask, mask_fn = _mask(options, rows, columns * devices, all_columns * devices)
    query_ids = _vector("query_ids", options.query_ids, jnp.integer, rows)
    target_ids = _vector("target_ids", options.target_ids, jnp.integer, columns, all_columns)
    if (query_ids is None) != (target_ids is None):
        raise ValueError("query_ids and target_ids go together: a target is no negative of a query of equal id")
    return Inputs(
        queries=queries,
        targets=targets,
        shared_negatives=shared,
        own_negatives=own,
        own_weights=_own_weights(options.negative_weights, own),
        weights=_vector("weights", options.weights, None, rows),
        positives=_vector("positives", options.positives, jnp.integer, rows),
        query_ids=query_ids,
        target_ids=target_ids,
        target_mask=_vector("target_mask", options.target_mask, jnp.bool_, columns, all_columns),
        mask=mask,
        mask_fn=mask_fn,
    )


def _check_ring(options: Options) -> None:
    """Refuses what needs all columns of a row at once."""
    if options.top_k is not None:
        raise ValueError('top_k needs all columns at once: use exchange="all_gather"')
    if options.mask is not None and not callable(options.mask):
        raise ValueError("a ring exchange sees few columns at a time: use a mask function")


def scalar(name: str, value: Any, dtype: Any, *, positive: bool = False) -> Array:
    """Returns a scalar array of that dtype; a Python number that should be positive is checked to be."""
    if isinstance(value, (int, float)) and positive and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}")
    return jnp.asarray(value, dtype)


def _embeddings(queries: Any, targets: Any, negatives: Any) -> tuple[Array, Array, Array | None, Array | None]:
    """Returns queries, targets, shared negatives and own negatives, all of one dtype."""
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
    if not others:
        return queries, targets, None, None
    if others[0].ndim == 2:
        return queries, targets, others[0], None
    if others[0].shape[0] != queries.shape[0]:
        raise ValueError(
            f"negatives of shape (N, K, D) are those of each query: {queries.shape[0]} queries, but negatives "
            f"of shape {others[0].shape}"
        )
    return queries, targets, None, others[0]


def _own_weights(negative_weights: Any, own_negatives: Array | None) -> Array | None:
    if negative_weights is None:
        return None
    if own_negatives is None:
        raise ValueError(
            "negative_weights weigh negatives of shape (N, K, D); shared negatives are left out by target_mask"
        )
    negative_weights = jnp.asarray(negative_weights)
    if negative_weights.shape != own_negatives.shape[:2]:
        raise ValueError(f"negative_weights must have shape {own_negatives.shape[:2]}, got {negative_weights.shape}")
    return negative_weights.astype(products.accumulator_dtype(own_negatives.dtype))


def _vector(name: str, values: Any, kind: Any, *lengths: int) -> Array | None:
    if values is None:
        return None
    values = jnp.asarray(values)
    if values.ndim != 1 or values.shape[0] not in lengths:
        expected = " or ".join(f"({length},)" for length in dict.fromkeys(lengths))
        raise ValueError(f"{name} must have shape {expected}, got {values.shape}")
    if kind is not None and not jnp.issubdtype(values.dtype, kind):
        expected = "integers" if kind is jnp.integer else "booleans"
        raise TypeError(f"{name} must be {expected}, got {values.dtype}")
    return values


def _mask(
    options: Options, num_rows: int, num_targets: int, num_columns: int
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
    two_calls = not options.both_directions_at_once and options.symmetric
    if two_calls and options.axis_name is not None:
        raise ValueError(
            "symmetric over a mesh with positives (unless distinct_positives) or top_k needs the columns of all "
            "devices' masks: use a mask function"
        )
    return jnp.pad(mask, ((0, 0), (0, num_columns - mask.shape[1])), constant_values=True), None
