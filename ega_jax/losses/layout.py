"""Lays out a loss's arguments for the kernel: what belongs to rows, what to columns."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import collectives, products
from ega_jax.losses.inputs import Inputs, Options, scalar
from ega_jax.losses.problem import Columns, Embeddings, Recipe, Rows, Scalars

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


class Problem(NamedTuple):
    """What the kernel eats, in its order."""

    recipe: Recipe
    embeddings: Embeddings
    rows: Rows
    columns: Columns
    scalars: Scalars


class _Numbering(NamedTuple):
    """Global columns: the user counts the targets of all devices, then the shared negatives of all.

    Gathered arrays hold the columns of device 0, targets and negatives, then those of device 1, ...
    """

    num_targets: int  # of one device, as below
    num_negatives: int
    device: Any
    num_devices: int

    def local_columns(self) -> Int[Array, " columns"]:
        """Numbers this device's columns as the user does."""
        targets = self.device * self.num_targets + jnp.arange(self.num_targets, dtype=jnp.int32)
        negatives = self.device * self.num_negatives + jnp.arange(self.num_negatives, dtype=jnp.int32)
        return jnp.concatenate([targets, self.num_devices * self.num_targets + negatives])

    def position(self, target: Int[Array, " N"]) -> Int[Array, " N"]:
        """Turns the user's numbers of targets into positions among gathered columns, -1 if there is none."""
        device, offset = target // self.num_targets, target % self.num_targets
        exists = (target >= 0) & (target < self.num_devices * self.num_targets)
        return jnp.where(exists, device * (self.num_targets + self.num_negatives) + offset, -1)

    def gathered_mask(self, mask: Bool[Array, "N all_columns"]) -> Bool[Array, "N all_columns"]:
        """Brings the columns of a mask from the user's order into that of gathered arrays."""
        if self.num_devices == 1:
            return mask
        split = self.num_devices * self.num_targets
        targets = mask[:, :split].reshape(len(mask), self.num_devices, self.num_targets)
        negatives = mask[:, split:].reshape(len(mask), self.num_devices, self.num_negatives)
        return jnp.concatenate([targets, negatives], axis=2).reshape(mask.shape)


def lay_out(
    inputs: Inputs, options: Options, recipe: Recipe, weight_parameters: tuple[Any, ...]
) -> tuple[Problem, Float[Array, " N"]]:
    """Lays out the query-to-target problem; also returns the row weights, ones where none were given."""
    queries, targets, own_negatives = inputs.queries, inputs.targets, inputs.own_negatives
    num_rows, num_targets = queries.shape[0], targets.shape[0]
    if inputs.shared_negatives is not None:
        targets = jnp.concatenate([targets, inputs.shared_negatives])
    num_columns = targets.shape[0]
    axis_name = options.axis_name
    device = collectives.index(axis_name)
    numbering = _Numbering(num_targets, num_columns - num_targets, device, collectives.size(axis_name))
    dtype = products.accumulator_dtype(queries.dtype)
    row_numbers = device * num_rows + jnp.arange(num_rows, dtype=jnp.int32)

    if inputs.positives is None:
        positives = numbering.position(device * num_targets + jnp.arange(num_rows, dtype=jnp.int32))
    else:
        positives = numbering.position(inputs.positives.astype(jnp.int32))
    weights, own_weights = jax.lax.stop_gradient((inputs.weights, inputs.own_weights))
    row_weights = jnp.ones((num_rows,), dtype) if weights is None else _nan_unless(weights >= 0, weights.astype(dtype))
    if own_weights is not None:
        own_weights = _nan_unless(own_weights >= 0, own_weights)

    # Padding may hold NaN, and 0 * NaN would reach everyone through the products.
    if weights is not None:
        queries = jnp.where((weights != 0)[:, None], queries, 0)
        if own_negatives is not None:
            own_negatives = jnp.where((weights != 0)[:, None, None], own_negatives, 0)
    if own_negatives is not None and own_weights is not None:
        own_negatives = jnp.where((own_weights != 0)[:, :, None], own_negatives, 0)
    target_mask, target_ids, has_keys = inputs.target_mask, inputs.target_ids, None
    if target_mask is not None:
        target_mask = _pad(target_mask, num_columns, True)
        is_positive = jnp.zeros((num_columns * numbering.num_devices,), jnp.int32)
        is_positive = is_positive.at[jnp.where(row_weights != 0, positives, -1)].set(
            1, mode="drop", wrap_negative_indices=False
        )
        is_positive = collectives.scatter_total(axis_name, is_positive) > 0
        targets = jnp.where((target_mask | is_positive)[:, None], targets, 0)
    if target_ids is not None and target_ids.shape[0] < num_columns:
        has_keys = jnp.arange(num_columns) < num_targets
        target_ids = _pad(target_ids, num_columns, 0)

    total = jnp.ones((), dtype)
    if options.reduction == "mean":
        total = collectives.total(axis_name, jnp.sum(row_weights))
    temperature = scalar("temperature", options.temperature, dtype, positive=True)
    margin = options.false_negative_margin
    recipe = dataclasses.replace(
        recipe,
        mask_fn=inputs.mask_fn,
        normalize=options.normalize,
        precision=options.precision,
        learnable_temperature=not isinstance(options.temperature, (int, float)),
        with_stats=options.return_stats,
        top_k=options.top_k,
        symmetric=options.both_directions_at_once,
        own_positives=inputs.positives is None,
        exchange=options.exchange,
        axis_name=axis_name,
        block_size=options.block_size,
    )
    arrays = (
        Embeddings(
            queries,
            targets,
            _nan_unless(temperature > 0, temperature),
            own_negatives,
        ),
        Rows(
            scale=row_weights / jnp.where(total == 0, 1.0, total),
            positives=positives,
            numbers=row_numbers,
            keys=() if inputs.query_ids is None else (inputs.query_ids,),
            mask=None if inputs.mask is None else numbering.gathered_mask(inputs.mask),
            own_weights=own_weights,
        ),
        Columns(
            positions=device * num_columns + jnp.arange(num_columns, dtype=jnp.int32),
            numbers=numbering.local_columns(),
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
    return Problem(recipe, *collectives.vary_alike(arrays)), row_weights


def transpose(problem: Problem) -> Problem:
    """Lays out the target-to-query problem: the positive of each query against all queries.

    Queries of weight 0 are no negatives, nor are those that share the positive. Own negatives have no part in
    it.

    """
    recipe, embeddings, rows, columns, scalars = problem
    queries, targets, temperature, _ = embeddings
    num_rows = queries.shape[0]

    def of_positives(values: Array) -> Array:
        if recipe.own_positives:
            return values[:num_rows]
        return collectives.gather(recipe.axis_name, values)[rows.positives]

    keys = [(of_positives(column), row) for row, column in zip(rows.keys, columns.keys, strict=True)]
    keys.append((rows.positives, rows.positives))
    return Problem(
        dataclasses.replace(recipe, mask_transposed=True, with_stats=False, own_positives=True),
        Embeddings(of_positives(targets), queries, temperature),
        Rows(
            scale=rows.scale,
            positives=rows.numbers,
            numbers=of_positives(columns.numbers),
            keys=tuple(row for row, _ in keys),
            mask=None if rows.mask is None else rows.mask[:, rows.positives].T,
        ),
        Columns(
            positions=rows.numbers,
            numbers=rows.numbers,
            keys=tuple(column for _, column in keys),
            mask=rows.scale != 0,
        ),
        scalars,
    )


def _nan_unless(right: Array, values: Array) -> Array:
    """Under jit a number out of range cannot be refused; NaN is at least not a wrong loss."""
    return jnp.where(right, values, jnp.nan)


def _pad(values: Array, length: int, value: Any) -> Array:
    return jnp.pad(values, (0, length - values.shape[0]), constant_values=value)
