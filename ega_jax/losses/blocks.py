"""Rows in blocks: how many, and a loop over them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ega_jax.losses import collectives
from ega_jax.platforms import target_platform

Tree = TypeVar("Tree")

# Logits of this size stay in cache: cutting them gains nothing.
_DENSE_BYTES = 8 * 2**20
# Logits of one block.
_BLOCK_BYTES = 64 * 2**20
# Rows of one block, at least.
_MIN_ROWS = {"cpu": 256}
_MIN_ROWS_ON_ACCELERATORS = 1024


def count_blocks(num_rows: int, num_columns: int, block_size: int | None, max_rows_on_cpus: int | None = None) -> int:
    """Returns into how many blocks to cut the rows; None lets the size of the logits decide."""
    if block_size is None:
        row_bytes = 4 * num_columns
        if num_rows * row_bytes <= _DENSE_BYTES:
            return 1
        platform = target_platform()
        block_size = max(_BLOCK_BYTES // row_bytes, _MIN_ROWS.get(platform, _MIN_ROWS_ON_ACCELERATORS))
        if platform == "cpu" and max_rows_on_cpus is not None:
            block_size = min(block_size, max_rows_on_cpus)
    return -(-num_rows // block_size)


def add(some: Any, others: Any) -> Any:
    """Adds two trees of arrays."""
    return jax.tree.map(jnp.add, some, others)


def scan(
    function: Callable[[Any], tuple[Any, Any]],
    rows: Any,
    num_blocks: int,
    *,
    merge: Callable[[Any, Any], Any] = add,
    initial: Any = None,
) -> tuple[Any, Any]:
    """Calls `sums, outputs = function(block)` for each block of rows; merges the sums, puts the outputs in
    place.

    Block b holds rows b, b + num_blocks, ...: so where rows are sharded over devices, every device has its part
    of every block. The last blocks are padded with zeros.

    Args:
        function: Of a tree of arrays with rows as leading axis, as in `rows`. So are its outputs, not its sums.
        rows: A tree of arrays with N as leading axis.
        num_blocks: How many blocks.
        merge: Of two sums.
        initial: Sums over nothing; None for zeros.

    Returns:
        The sums, and the outputs with N as leading axis.
    """
    if num_blocks == 1:
        return function(rows)
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    rows = cut(rows, num_blocks)

    def take(number: Any) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, axis=1, keepdims=False), rows)

    def zeros(shape: Any, *, all_blocks: bool) -> Any:
        lengths = (shape.shape[0], num_blocks, *shape.shape[1:]) if all_blocks else shape.shape
        sharding = collectives.explicit_sharding(shape)
        if sharding is not None and all_blocks:
            first, *others = sharding.spec
            sharding = sharding.update(spec=(first, None, *others))
        return collectives.vary(collectives.varying_axes(shape), jnp.zeros(lengths, shape.dtype, out_sharding=sharding))

    def step(totals: tuple[Any, Any], number: Any) -> tuple[tuple[Any, Any], None]:
        sums, outputs = function(take(number))

        # In place: stacking the outputs would take another array to bring them into the order of the rows.
        def put(all_outputs: Any, outputs: Any) -> Any:
            return jax.lax.dynamic_update_index_in_dim(all_outputs, outputs, number, axis=1)

        return (merge(totals[0], sums), jax.tree.map(put, totals[1], outputs)), None

    sums, outputs = jax.eval_shape(lambda: function(take(0)))
    if initial is None:
        initial = jax.tree.map(functools.partial(zeros, all_blocks=False), sums)
    totals = (
        jax.tree.map(lambda shape, x: collectives.vary(collectives.varying_axes(shape), x), sums, initial),
        jax.tree.map(functools.partial(zeros, all_blocks=True), outputs),
    )
    sums, outputs = jax.lax.scan(step, totals, jnp.arange(num_blocks))[0]
    return sums, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_rows], outputs)


def cut(tree: Tree, num_blocks: int) -> Tree:
    """Reshapes (N, ...) to (rows, num_blocks, ...), padded with zeros."""

    def cut_array(array: Any) -> Any:
        rows = -(-array.shape[0] // num_blocks)
        missing = rows * num_blocks - array.shape[0]
        if missing:  # not for arrays of keys, which have no zero
            array = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(rows, num_blocks, *array.shape[1:])

    return jax.tree.map(cut_array, tree)
