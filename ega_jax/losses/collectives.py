"""What the devices of a mesh exchange for a loss, inside `jax.shard_map`. With axis_name=None there is one
device.

Types say over which mesh axes a value varies (`check_vma=True`), and differentiation relies on it: the sum of
a loss that all devices share has a gradient that is right on each of them only if JAX knows that they share
it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

Tree = TypeVar("Tree")
AxisName = str | tuple[str, ...] | None


def gather(axis_name: AxisName, tree: Tree) -> Tree:
    """Concatenates arrays of all devices along their leading axis, in device order."""
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), tree)


def total(axis_name: AxisName, array: jax.Array) -> jax.Array:
    """Sums over devices."""
    return array if axis_name is None else jax.lax.psum(array, axis_name)


def scatter_total(axis_name: AxisName, array: jax.Array) -> jax.Array:
    """Sums over devices; each gets its part of the leading axis."""
    return array if axis_name is None else jax.lax.psum_scatter(array, axis_name, tiled=True)


def scatter_log_sum(axis_name: AxisName, array: jax.Array) -> jax.Array:
    """Takes the logarithm of sums over devices of exponentials; each gets its part of the leading axis."""
    if axis_name is None:
        return array
    parts = jax.lax.all_to_all(array.reshape(size(axis_name), -1), axis_name, 0, 0, tiled=True)
    return jax.nn.logsumexp(parts, axis=0)


def index(axis_name: AxisName) -> jax.Array | int:
    """Returns this device's number."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name)


def size(axis_name: AxisName) -> int:
    """Returns how many devices there are."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def check(axis_name: AxisName) -> None:
    """Refuses axes whose exchanges JAX does not keep account of.

    Raises:
        ValueError: The axis belongs to a `shard_map` with check_vma=False, or to no `shard_map` at all.
    """
    if axis_name is not None and not varying_axes(jnp.asarray(jax.lax.axis_index(axis_name))):
        raise ValueError(
            f"axis_name={axis_name!r} needs jax.shard_map(..., check_vma=True): without it gradients of a loss "
            "that devices share come out scaled by the number of devices"
        )


def varying_axes(array: Any) -> frozenset[str]:
    """Returns the manual mesh axes over which an array (or a shape) varies; none outside of `shard_map`."""
    kind = array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)
    kind = getattr(kind, "manual_axis_type", kind)
    return frozenset(getattr(kind, "varying", None) or getattr(kind, "vma", None) or ())


def explicit_sharding(shape: jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding | None:
    """Returns the sharding that is part of an array's type, on meshes with Explicit axes alone."""
    sharding = shape.sharding
    explicit = isinstance(sharding, jax.sharding.NamedSharding) and AxisType.Explicit in sharding.mesh.axis_types
    return sharding if explicit else None


def vary(axes: frozenset[str], tree: Tree) -> Tree:
    """Types arrays as varying over at least these axes. The gradient of an array that did not is summed over them."""

    def vary_array(array: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - varying_axes(array)))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(vary_array, tree)


def vary_alike(tree: Tree) -> Tree:
    """Types all arrays as varying over the axes over which any of them varies."""
    return vary(frozenset().union(*map(varying_axes, jax.tree.leaves(tree))), tree)
