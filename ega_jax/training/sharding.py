"""Where arrays live: the device mesh, and the rules from logical axes to mesh axes."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import TYPE_CHECKING

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ega_jax.models.functional import Functional
    from ega_jax.training.config import MeshSettings

BATCH = ("data", "fsdp")
"""The mesh axes that split the batch."""


@dataclasses.dataclass(frozen=True)
class AxisRules:
    """Logical axis of a parameter -> mesh axis that splits it.

    A matrix is split twice: its inputs' features over "fsdp" (gathered when a layer runs, so that no device holds a
    whole model) and its heads or hidden units over "tensor" (each device computes its own). Vectors stay whole.
    """

    embed: str | None = "fsdp"
    mlp: str | None = "tensor"
    heads: str | None = "tensor"
    vocab: str | None = "tensor"
    vision_embed: str | None = "fsdp"
    vision_mlp: str | None = "tensor"
    vision_heads: str | None = "tensor"
    layers: str | None = None

    def spec(self, axes: Sequence[str | None], shape: Sequence[int], mesh: jax.sharding.Mesh) -> P:
        """The partition of one array.

        A dimension that its mesh axis does not divide stays whole, and so does an array of one feature dimension, whose
        gathering would cost more than its bytes.

        Raises:
          ValueError: a name has no rule, or two dimensions fall on one mesh axis.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := [name for name in axes if name is not None and name not in known]:
            raise ValueError(f"no rule for the logical axes {unknown}; known: {sorted(known)}")
        mapped = [None if name is None else getattr(self, name) for name in axes]
        used = [name for name in mapped if name is not None]
        if len(used) != len(set(used)):
            raise ValueError(f"two dimensions of {tuple(axes)} fall on one mesh axis: {mapped}")
        if sum(name != "layers" for name in axes) < 2:
            return P()
        return P(
            *(
                name if name is not None and size % mesh.shape[name] == 0 else None
                for name, size in zip(mapped, shape, strict=True)
            )
        )


def make_mesh(settings: MeshSettings, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh ("data", "fsdp", "tensor") over all devices.

    Over several hosts of GPUs or slices of TPUs it is hybrid: "data", which sends least, is what crosses the slow links
    between them, "fsdp" only where "data" has too few places, and "tensor" last.

    Raises:
      BadInputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dataclasses.asdict(settings)
    given = math.prod(size for size in sizes.values() if size != -1)
    sizes = {name: len(devices) // given if size == -1 else size for name, size in sizes.items()}
    if math.prod(sizes.values()) != len(devices):
        raise BadInputError(f"mesh {sizes} has {math.prod(sizes.values())} places for {len(devices)} devices")
    return jax.sharding.Mesh(_grid(tuple(sizes.values()), devices), tuple(sizes), axis_types=(AxisType.Auto,) * 3)


def _grid(sizes: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices, of shape `sizes`; a later axis, which is talked over more, leaves an island last."""
    # `jax.make_mesh` would refuse 8 x 8 on a 4 x 4 x 4 torus, where an axis of the mesh splits one of the torus.
    options = {"allow_split_physical_axes": True}
    attribute, count = _granules(devices)
    if count == 1:
        return mesh_utils.create_device_mesh(sizes, devices, **options)
    outside = []
    left = count
    for size in sizes:
        outside.append(math.gcd(size, left))
        left //= outside[-1]
    inside = [size // part for size, part in zip(sizes, outside, strict=True)]
    by_process = attribute == "process_index"
    return mesh_utils.create_hybrid_device_mesh(inside, outside, devices, process_is_granule=by_process, **options)


def islands(devices: Sequence[jax.Device]) -> list[int]:
    """Of each device, the set of fast links that it is on: its slice of TPUs, or its host of GPUs."""
    attribute, count = _granules(devices)
    return [0 if count == 1 else int(getattr(device, attribute)) for device in devices]


def _granules(devices: Sequence[jax.Device]) -> tuple[str, int]:
    """The attribute that tells islands apart, and how many there are.

    JAX numbers hosts of GPUs as slices where it knows them. Where it does not, a process stands for its host, unless it
    has one device alone: then several may share a host, and nothing tells. Processes of one slice of TPUs share links.
    """
    attributes = ("slice_index",) if devices[0].platform == "tpu" else ("slice_index", "process_index")
    for attribute in attributes:
        sizes = collections.Counter(getattr(device, attribute, 0) for device in devices)
        equal = len(set(sizes.values())) == 1
        if len(sizes) > 1 and equal and (attribute == "slice_index" or len(devices) > len(sizes)):
            return attribute, len(sizes)
    return attributes[0], 1


def parameter_shardings(functional: Functional, mesh: jax.sharding.Mesh) -> dict[str, NamedSharding]:
    """Where each parameter of a model lives, by path."""
    rules = AxisRules()
    return {
        path: NamedSharding(mesh, rules.spec(functional.axes[path], leaf.shape, mesh))
        for path, leaf in functional.parameters.items()
    }


def batch_devices(mesh: jax.sharding.Mesh) -> int:
    """Into how many parts the mesh splits a batch."""
    return math.prod(mesh.shape[name] for name in BATCH)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Leading axis split over `BATCH`."""
    return NamedSharding(mesh, P(BATCH))


def local_groups(mesh: jax.sharding.Mesh, groups: int) -> list[int]:
    """Which of the groups of a batch this process's devices hold, ascending.

    Not always neighbours: a mesh follows the wiring of its chips, not the numbers of the processes.
    """
    slices = [index[0] for index in batch_sharding(mesh).addressable_devices_indices_map((groups,)).values() if index]
    return sorted({group for part in slices for group in range(*part.indices(groups))})


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())
