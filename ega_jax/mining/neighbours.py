"""The targets nearest to each query, exactly, on the devices at hand, a block of queries at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

if TYPE_CHECKING:
    from jaxtyping import Array, Float32, Int32

_BLOCK = 256
"""Queries a device compares at once: with a million targets, a gigabyte of similarities."""


def nearest_targets(
    queries: Float32[np.ndarray, "N D"],
    targets: Float32[np.ndarray, "M D"],
    excluded: Sequence[Sequence[int]],
    k: int,
) -> tuple[Float32[np.ndarray, "N k"], Int32[np.ndarray, "N k"]]:
    """The k most similar targets of each query, best first.

    Args:
      queries, targets: unit rows.
      excluded: of each query, the targets that do not count.
      k: how many; at most M are given.

    Returns:
      Cosine similarities (float32) and places; -inf where fewer than k targets count.
    """
    devices = jax.local_devices()
    block = _BLOCK * len(devices)
    k, count = min(k, len(targets)), len(queries)
    # Places past the end are dropped by the scatter: so shorter lists are filled.
    longest = max(map(len, excluded), default=0)
    filled = np.full((count, longest), len(targets), np.int32)
    for row, places in enumerate(excluded):
        filled[row, : len(places)] = places
    mesh = jax.sharding.Mesh(np.asarray(devices), ("queries",))
    rows, everywhere = NamedSharding(mesh, PartitionSpec("queries")), NamedSharding(mesh, PartitionSpec())
    pool = jax.device_put(targets, everywhere)
    similarities, nearest = [], []
    for start in range(0, count, block):
        part = [np.resize(array[start : start + block], (block, array.shape[1])) for array in (queries, filled)]
        values, places = _block_of(*(jax.device_put(array, rows) for array in part), pool, k=k)
        similarities.append(np.asarray(values))
        nearest.append(np.asarray(places))
    return np.concatenate(similarities)[:count], np.concatenate(nearest)[:count]


@functools.partial(jax.jit, static_argnames="k")
def _block_of(
    queries: Float32[Array, "B D"], excluded: Int32[Array, "B E"], targets: Float32[Array, "M D"], k: int
) -> tuple[Float32[Array, "B k"], Int32[Array, "B k"]]:
    similarities = jnp.matmul(queries, targets.T, precision="highest")
    similarities = similarities.at[jnp.arange(len(queries))[:, None], excluded].set(-jnp.inf, mode="drop")
    return jax.lax.top_k(similarities, k)
