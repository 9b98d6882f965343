"""Kernels on a mesh. XLA splits its own operations over devices; a kernel is opaque to it and has to be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
from jax.sharding import PartitionSpec as P

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree, Shaped

    Kernel = Callable[..., Float[Array, "B T H d"]]

HEADS_AXIS = "tensor"
"""The mesh axis that splits attention heads (`ega_jax.training.sharding.AxisRules`)."""


def on_mesh(
    kernel: Kernel,
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    rows: PyTree[Shaped[Array, "B ..."]],
) -> Float[Array, "B T H d"]:
    """Runs kernel(q, k, v, rows) on each device's heads, under `jax.shard_map`.

    The mesh is that of the context (`jax.sharding.use_abstract_mesh`, `jax.set_mesh`); without one, or on one device,
    the kernel runs as it is. Heads are split over `HEADS_AXIS` where it divides the key heads. The rows given here are
    not split further: `embed_groups` splits the batch by `jax.vmap(..., spmd_axis_name=...)`, which puts the batch's
    mesh axes in front of these.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:  # manual: somebody else's shard_map, arrays are local already
        return kernel(q, k, v, rows)
    split = HEADS_AXIS if HEADS_AXIS in mesh.shape and k.shape[2] % mesh.shape[HEADS_AXIS] == 0 else None
    heads = P(None, None, split)
    run = jax.shard_map(kernel, in_specs=(heads, heads, heads, P()), out_specs=heads, check_vma=False)
    return run(q, k, v, rows)
