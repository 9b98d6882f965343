"""Published weights in and out: safetensors alone, one tensor at a time, every name accounted for.

Names come from the backbone's table (`name_table.py`). Reading asks the files for the slices that this process's
devices hold and no more: the host never sees the whole model, only its part of one (stacked) parameter at a time.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ega_jax.errors import BadInputError
from ega_jax.models.name_table import NameTable, Slot, slots_of
from ega_jax.models.safetensors_files import INDEX, Tensor, open_tensors, split

if TYPE_CHECKING:
    from ega_jax.models.name_table import ParamPath

_FLOATS = ("F64", "F32", "F16", "BF16")


def load_weights(model: nnx.Module, model_dir: str | Path) -> None:
    """Reads every parameter of `model` from the safetensors files of a directory, in place; adapters stay as they are.

    Args:
      model: concrete or abstract (`flax.nnx.eval_shape`), with a table `names`. A parameter keeps its dtype and, if
        its value (an array or a `ShapeDtypeStruct`) has a sharding, that: each device then gets its own slices of the
        files.
      model_dir: holds `model.safetensors`, or shards with `model.safetensors.index.json`, in any of the name
        layouts that the table knows.

    Raises:
      BadInputError: no or unreadable files; or names that are unknown, missing, doubled, of the wrong shape
        or dtype: all of them in one message.
    """
    slots = slots_of(model)
    tensors = match(open_tensors(Path(model_dir)), slots, _names(model), Path(model_dir))
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    for path, group in itertools.groupby(slots, key=lambda slot: slot.path):
        value = _read_parameter(flat[path].get_raw_value(), list(group), tensors)
        flat[path] = flat[path].replace(value)
    nnx.update(model, nnx.from_flat_state(list(flat.items())))


def save_weights(
    model: nnx.Module,
    model_dir: str | Path,
    *,
    passthrough: str | Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes every parameter under its published name.

    Args:
      model: with all its weights within reach of this process, and a table `names`.
      model_dir: made if absent; must hold no safetensors files yet.
      passthrough: a model directory from which the published tensors that the model does not hold (the head
        and the tower's last norm) are copied; without it they are left out.
      max_shard_bytes: a new file starts where this would be passed.

    Raises:
      BadInputError: `model_dir` has weights already, or `passthrough` has none.
      ValueError: the model has adapters, which have no published name.
    """
    model_dir, names = Path(model_dir), _names(model)
    if jax.tree.leaves(nnx.state(model, nnx.LoRAParam)):
        raise ValueError("the model has LoRA adapters, which have no published name: merge_lora(model) first")
    if any(model_dir.glob("*.safetensors")):
        raise BadInputError(f"{model_dir}: holds safetensors files already; give an empty directory")
    flat = {path: variable.get_raw_value() for path, variable in nnx.to_flat_state(nnx.state(model))}
    slots = {name: list(group) for name, group in _by_name(slots_of(model))}
    held = [] if passthrough is None else open_tensors(Path(passthrough))
    copied = {name: tensor for tensor in held if names.is_passed_over(name := names.canonical(tensor.name))}
    sizes = {n: math.prod(parts[0].shape) * flat[parts[0].path].dtype.itemsize for n, parts in slots.items()}
    sizes |= {name: tensor.slice[:].nbytes for name, tensor in copied.items()}

    model_dir.mkdir(parents=True, exist_ok=True)
    shards = split(sizes, max_shard_bytes)
    for file, members in shards.items():
        content = {n: _to_published(flat, slots[n]) if n in slots else copied[n].slice[:] for n in members}
        # Written under another name first: a file that has its right name is a whole one.
        save_file(content, model_dir / f"{file}.part", metadata={"format": "pt"})
        os.replace(model_dir / f"{file}.part", model_dir / file)
    if len(shards) > 1:
        weight_map = {name: file for file, members in shards.items() for name in members}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (model_dir / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def match(tensors: Iterable[Tensor], slots: Iterable[Slot], names: NameTable, model_dir: Path) -> dict[str, Tensor]:
    """Tensors by canonical name, after checking that they are exactly those that the slots want.

    Raises:
      BadInputError: they are not; tells every difference.
    """
    wanted = {slot.name: slot.shape for slot in slots}
    matched: dict[str, Tensor] = {}
    unknown, doubled, misshaped = [], [], []
    for tensor in tensors:
        name = names.canonical(tensor.name)
        if name in matched:
            doubled.append(f"{tensor.name} ({matched[name].file.name} and {tensor.file.name})")
        matched[name] = tensor
        if name not in wanted:
            if not names.is_passed_over(name):
                unknown.append(tensor.name)
        elif tensor.slice.get_dtype() not in _FLOATS:
            misshaped.append(f"{tensor.name} (dtype {tensor.slice.get_dtype()} is not a float)")
        elif tensor.shape != wanted[name]:
            misshaped.append(f"{tensor.name} (is {tensor.shape}, must be {wanted[name]})")
    missing = [name for name in wanted if name not in matched]
    faults = {"unknown": unknown, "missing": missing, "doubled": doubled, "wrong shape or dtype": misshaped}
    if any(faults.values()):
        told = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in faults.items() if found)
        raise BadInputError(f"{model_dir}: the weights do not fit config.json: {told}")
    return matched


def _names(model: Any) -> NameTable:
    return model.names


def _by_name(slots: Iterable[Slot]) -> Iterable[tuple[str, list[Slot]]]:
    """The slots of each published tensor, in the order of its rows."""
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        groups.setdefault(slot.name, []).append(slot)
    return ((name, sorted(group, key=lambda slot: slot.rows.start)) for name, group in groups.items())


def _to_published(flat: Mapping[ParamPath, jax.Array], slots: list[Slot]) -> np.ndarray:
    """One published tensor, from the parameters that make it up."""
    parts = [
        slot.layout.write(np.asarray(flat[slot.path] if slot.layer is None else flat[slot.path][slot.layer]))
        for slot in slots
    ]
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return np.ascontiguousarray(whole)  # safetensors writes the buffer as it lies in memory


class _Rows:
    """Some rows of a tensor on disk, indexed as if they were all."""

    def __init__(self, tensor: Tensor, rows: slice) -> None:
        self._tensor, self._rows = tensor, rows

    def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        start, stop, _ = first.indices(self._rows.stop - self._rows.start)
        whole = (slice(self._rows.start + start, self._rows.start + stop), *rest)
        try:
            return self._tensor.slice[whole]
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{self._tensor.file}: unreadable ({error}); fetch it again") from error


def _read_parameter(like: Any, slots: list[Slot], tensors: Mapping[str, Tensor]) -> jax.Array:
    """One parameter from its tensor, or from those of its layers; what several devices share is read once."""
    read: dict[Any, np.ndarray] = {}

    def from_slot(slot: Slot, index: tuple[slice, ...]) -> np.ndarray:
        return slot.layout.read(_Rows(tensors[slot.name], slot.rows), index)

    def from_index(index: Any) -> np.ndarray:
        key = tuple((part.start, part.stop) for part in index)
        if key not in read:
            lengths = (len(range(*part.indices(size))) for part, size in zip(index, like.shape, strict=True))
            value = read[key] = np.empty(tuple(lengths), like.dtype)
            if slots[0].layer is None:
                value[...] = from_slot(slots[0], index)
            else:
                for layer, slot in zip(value, slots[index[0]], strict=True):
                    layer[...] = from_slot(slot, index[1:])
        return read[key]

    sharding = getattr(like, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.make_array_from_callback(like.shape, sharding, from_index)
