"""One parameter from its published tensors, written in place into the arrays of this process's devices.

Only a few megabytes of a parameter are ever in host memory besides the arrays themselves: a large one is read piece by
piece, and each piece is copied into the device's array before the next is read.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from ega_jax.models.name_table import Slot
    from ega_jax.models.safetensors_files import Tensor
    from ega_jax.models.tensor_layouts import Index

PIECE_BYTES = 2**23
"""What is read at once, in bytes of the parameter's own dtype. Reading holds up to four copies of it."""


def read_parameter(like: Any, slots: list[Slot], tensors: Mapping[str, Tensor]) -> jax.Array:
    """Reads one parameter; what several devices share is read once.

    Args:
      like: its shape, dtype and (optionally) sharding.
      slots: its place in the files, or those of its layers.
      tensors: the open tensors by published name.

    Raises:
      BadInputError: a file cannot be read.
    """
    sharding: jax.sharding.Sharding
    sharding = getattr(like, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    devices_of: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(like.shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index or (), like.shape, strict=True))
        devices_of.setdefault(bounds, []).append(device)
    shards = [
        _read_shard(like.dtype, tuple(slice(*pair) for pair in bounds), devices, slots, tensors)
        for bounds, devices in devices_of.items()
    ]
    return jax.make_array_from_single_device_arrays(like.shape, sharding, list(itertools.chain(*shards)))


def _read_shard(
    dtype: Any, index: Index, devices: list[jax.Device], slots: list[Slot], tensors: Mapping[str, Tensor]
) -> list[jax.Array]:
    """The part `index` of a parameter, on each of `devices`."""
    shape = tuple(part.stop - part.start for part in index)
    if np.prod(shape) * np.dtype(dtype).itemsize <= PIECE_BYTES:
        host = np.empty(shape, dtype)
        for start, piece in _pieces(dtype, index, slots, tensors):
            host[tuple(slice(s, s + n) for s, n in zip(start, piece.shape, strict=True))] = piece
        return [jax.device_put(host, device) for device in devices]
    arrays = [jnp.zeros(shape, dtype, device=device) for device in devices]
    for start, piece in _pieces(dtype, index, slots, tensors):
        arrays = [_write(array, jax.device_put(piece, array.device), start) for array in arrays]
        jax.block_until_ready(arrays)  # or pieces that wait for their turn would pile up
    return arrays


@functools.partial(jax.jit, donate_argnums=0)
def _write(array: jax.Array, piece: jax.Array, start: tuple[int, ...]) -> jax.Array:
    """`array` with `piece` at `start`, in the same memory."""
    return jax.lax.dynamic_update_slice(array, piece, start)


def _pieces(
    dtype: Any, index: Index, slots: list[Slot], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The part `index` of a parameter as (where it goes, values), cut along the rows of the files."""
    stacked = slots[0].layer is not None
    for number, slot in enumerate(slots[index[0]] if stacked else slots):
        for start, part in _cut(index[1:] if stacked else index, slot.layout.row_axis, np.dtype(dtype).itemsize):
            values = slot.layout.read(_Rows(tensors[slot.name], slot.rows), part)
            values = np.asarray(values, dtype, order="C")
            yield ((number, *start), values[None]) if stacked else (start, values)


def _cut(index: Index, axis: int | None, itemsize: int) -> Iterator[tuple[tuple[int, ...], Index]]:
    """An index in pieces along one axis, each with its place in the whole."""
    start = [0] * len(index)
    if axis is None:
        yield tuple(start), index
        return
    along = index[axis]
    sizes = [part.stop - part.start for part in index]
    row_bytes = int(np.prod(sizes)) // sizes[axis] * itemsize
    step = max(1, PIECE_BYTES // row_bytes)
    for first in range(along.start, along.stop, step):
        part = list(index)
        part[axis] = slice(first, min(first + step, along.stop))
        start[axis] = first - along.start
        yield tuple(start), tuple(part)


class _Rows:
    """Some rows of a tensor on disk, indexed as if they were all."""

    def __init__(self, tensor: Tensor, rows: slice) -> None:
        self._tensor, self._rows = tensor, rows

    def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        start, stop, _ = first.indices(self._rows.stop - self._rows.start)
        return self._tensor.read((slice(self._rows.start + start, self._rows.start + stop), *rest))
