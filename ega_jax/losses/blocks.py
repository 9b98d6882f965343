"""Rows in blocks: how many, and how arrays are cut."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")

# Logits of this size stay in cache: cutting them gains nothing.
_DENSE_BYTES = 8 * 2**20
# Logits of one block. Times are flat between 256 and 4,096 rows on CPUs; accelerators want at least 1,024.
_BLOCK_BYTES = 64 * 2**20
_MIN_ROWS = {"cpu": 256}
_MIN_ROWS_ON_ACCELERATORS = 1024


def count_blocks(num_rows: int, num_columns: int, block_size: int | None) -> int:
    """Returns into how many blocks to cut the rows; None lets the size of the logits decide."""
    if block_size is None:
        row_bytes = 4 * num_columns
        if num_rows * row_bytes <= _DENSE_BYTES:
            return 1
        min_rows = _MIN_ROWS.get(jax.default_backend(), _MIN_ROWS_ON_ACCELERATORS)
        block_size = max(_BLOCK_BYTES // row_bytes, min_rows)
    return -(-num_rows // block_size)


def cut(tree: Tree, num_blocks: int) -> Tree:
    """Cuts the leading axis into blocks: (N, ...) to (num_blocks, rows, ...), padded with zeros.

    Block b holds rows b, b + num_blocks, ...: so where rows are sharded over devices, every device has its
    part of every block.
    """

    def cut_array(array: Any) -> Any:
        rows = -(-array.shape[0] // num_blocks)
        padding = [(0, rows * num_blocks - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(rows, num_blocks, *array.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut_array, tree)


def join(tree: Tree, num_rows: int) -> Tree:
    """Undoes `cut`."""

    def join_array(array: Any) -> Any:
        return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])[:num_rows]

    return jax.tree.map(join_array, tree)
