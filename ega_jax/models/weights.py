"""Published weights in and out: safetensors alone, one tensor at a time, every name accounted for.

Names come from the backbone's table (`name_table.py`). Reading asks the files for the slices that this process's
devices hold and no more, a few megabytes at a time (`parameter_reading.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from ega_jax.errors import BadInputError
from ega_jax.models.lora import adapters_of
from ega_jax.models.name_table import NameTable, Slot, slots_of
from ega_jax.models.parameter_reading import read_parameter
from ega_jax.models.safetensors_files import Source, Tensor, open_tensors, write_tensors


def load_weights(model: nnx.Module, model_dir: str | Path, *, paths: Collection[str] | None = None) -> None:
    """Reads the parameters of `model` from the safetensors files of a directory, in place; adapters stay as they are.

    Args:
      model: concrete or abstract (`flax.nnx.eval_shape`), with a table `names`. A parameter keeps its dtype and, if
        its value (an array or a `ShapeDtypeStruct`) has a sharding, that: each device then gets its own slices of the
        files.
      model_dir: holds `model.safetensors`, or shards with `model.safetensors.index.json`, in any of the name
        layouts that the table knows.
      paths: read these alone, such as "projector/linear_1/kernel"; all names are checked in any case.

    Raises:
      BadInputError: no or unreadable files; or names that are unknown, missing, doubled, of the wrong shape
        or dtype: all of them in one message.
    """
    slots = slots_of(model)
    tensors = match(open_tensors(Path(model_dir)), slots, _names(model), Path(model_dir))
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    for path, group in itertools.groupby(slots, key=lambda slot: slot.path):
        if paths is not None and "/".join(map(str, path)) not in paths:
            continue
        value = read_parameter(flat[path].get_raw_value(), list(group), tensors)
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
    sources = sources_of(model)
    for tensor in [] if passthrough is None else open_tensors(Path(passthrough)):
        if names.is_passed_over(name := names.canonical(tensor.name)):
            sources[name] = tensor.source(name)
    model_dir.mkdir(parents=True, exist_ok=True)
    write_tensors(model_dir, list(sources.values()), max_shard_bytes=max_shard_bytes)


def sources_of(model: nnx.Module) -> dict[str, Source]:
    """What a model's published tensors are to be written from, by name; adapters are added to their kernels, layer by
    layer."""
    values = _Values(model)
    return {parts[0].name: _source(values, parts) for parts in _by_name(slots_of(model))}


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
        elif tensor.dtype is None:
            misshaped.append(f"{tensor.name} (dtype {tensor.dtype_name} is not a float)")
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


def _by_name(slots: Iterable[Slot]) -> Iterable[list[Slot]]:
    """The slots of each published tensor, in the order of its rows."""
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        groups.setdefault(slot.name, []).append(slot)
    return (sorted(group, key=lambda slot: slot.rows.start) for group in groups.values())


def _source(values: _Values, slots: list[Slot]) -> Source:
    """One published tensor, from the parameters that make it up."""

    def pieces() -> Iterator[np.ndarray]:
        for slot in slots:
            yield slot.layout.write(np.asarray(values.of(slot)))

    return Source(slots[0].name, values.dtype(slots[0]), slots[0].shape, pieces)


class _Values:
    """The parameters of a model, layer by layer; kernels with what their adapters add."""

    def __init__(self, model: Any) -> None:
        flat = nnx.to_flat_state(nnx.state(model))
        self._flat = {tuple(map(str, path)): variable.get_raw_value() for path, variable in flat}
        self._adapters = {(*path.split("/"), "kernel"): lora for path, lora in adapters_of(model).items()}

    def of(self, slot: Slot) -> jax.Array:
        value = self._flat[slot.path]
        value = value if slot.layer is None else value[slot.layer]
        adapter = self._adapters.get(slot.path)
        return value if adapter is None else value + adapter.product(slot.layer)

    def dtype(self, slot: Slot) -> np.dtype:
        return np.dtype(np.float32) if slot.path in self._adapters else self._flat[slot.path].dtype
