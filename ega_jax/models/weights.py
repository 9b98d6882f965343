"""Published weights in and out: safetensors alone, one tensor at a time, every name accounted for.

The published name of a parameter follows from its own path by the prefixes below, so a parameter that the map
forgets cannot exist. Reading asks the files for the slices that this process's devices hold and no more: the
host never sees the whole model, only its part of one (stacked) parameter at a time.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from ega_jax.models.llava_onevision import LlavaOnevision

    ParamPath = tuple[str, ...]

_PREFIXES = (  # (our path, published name; {} is the layer's number)
    ("image_newline", "image_newline"),
    ("vision_tower.patch_embedding", "vision_tower.vision_model.embeddings.patch_embedding"),
    ("vision_tower.position_embedding", "vision_tower.vision_model.embeddings.position_embedding.weight"),
    ("vision_tower.encoder.layers", "vision_tower.vision_model.encoder.layers.{}"),
    ("projector", "multi_modal_projector"),
    ("language_model.embed_tokens.embedding", "language_model.model.embed_tokens.weight"),
    ("language_model.decoder.layers", "language_model.model.layers.{}"),
    ("language_model.norm", "language_model.model.norm"),
)
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}

# Published tensors that no embedding depends on: the head, and the tower's last norm.
_PASSED_OVER = re.compile(r"language_model\.lm_head\.weight|vision_tower\.vision_model\.post_layernorm\.(weight|bias)")

_FLOATS = ("F64", "F32", "F16", "BF16")


class _Tensor(NamedTuple):
    """A tensor on disk: `get_slice` of an open file, which reads nothing until it is indexed."""

    name: str  # as the file has it
    file: Path
    slice: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.slice.get_shape())


class _Slot(NamedTuple):
    """One published tensor's place in one of our parameters."""

    name: str
    path: ParamPath
    layer: int | None  # the index along the leading axis of a stacked parameter
    shape: tuple[int, ...]  # as published


def load_weights(model: LlavaOnevision, model_dir: str | Path) -> None:
    """Reads every parameter of `model` from the safetensors files of a directory, in place; adapters stay as they are.

    Args:
      model: concrete or abstract (`flax.nnx.eval_shape`). A parameter keeps its dtype and, if its value (an array or
        a `ShapeDtypeStruct`) has a sharding, that: each device then gets its own slices of the files.
      model_dir: holds `model.safetensors`, or shards with `model.safetensors.index.json`, in any of the name
        layouts that transformers 4.45 to 5 write.

    Raises:
      BadInputError: no or unreadable files; or names that are unknown, missing, doubled, of the wrong shape
        or dtype: all of them in one message.
    """
    slots = _slots(model)
    tensors = _matched(_open(Path(model_dir)), slots, Path(model_dir))
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    for path, group in itertools.groupby(slots, key=lambda slot: slot.path):
        value = _read_parameter(flat[path].get_raw_value(), list(group), tensors)
        flat[path] = flat[path].replace(value)
    nnx.update(model, nnx.from_flat_state(list(flat.items())))


def save_weights(
    model: LlavaOnevision,
    model_dir: str | Path,
    *,
    passthrough: str | Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes every parameter under its published name (those of transformers 4.45, which later ones read).

    Args:
      model: with all its weights within reach of this process.
      model_dir: made if absent; must hold no safetensors files yet.
      passthrough: a model directory from which the published tensors that the model does not hold (the head
        and the tower's last norm) are copied; without it they are left out.
      max_shard_bytes: a new file starts where this would be passed.

    Raises:
      BadInputError: `model_dir` has weights already, or `passthrough` has none.
      ValueError: the model has adapters, which have no published name.
    """
    model_dir = Path(model_dir)
    if jax.tree.leaves(nnx.state(model, nnx.LoRAParam)):
        raise ValueError("the model has LoRA adapters, which have no published name: merge_lora(model) first")
    if any(model_dir.glob("*.safetensors")):
        raise BadInputError(f"{model_dir}: holds safetensors files already; give an empty directory")
    flat = {path: variable.get_raw_value() for path, variable in nnx.to_flat_state(nnx.state(model))}
    slots = {slot.name: slot for slot in _slots(model)}
    copied = {} if passthrough is None else {t.name: t for t in _open(Path(passthrough)) if _is_passed_over(t.name)}
    copied = {_canonical(name): tensor for name, tensor in copied.items()}
    sizes = {name: math.prod(slot.shape) * flat[slot.path].dtype.itemsize for name, slot in slots.items()}
    sizes |= {name: tensor.slice[:].nbytes for name, tensor in copied.items()}

    model_dir.mkdir(parents=True, exist_ok=True)
    shards = _split(sizes, max_shard_bytes)
    for file, names in shards.items():
        content = {n: _to_published(flat, slots[n]) if n in slots else copied[n].slice[:] for n in names}
        # Written under another name first: a file that has its right name is a whole one.
        save_file(content, model_dir / f"{file}.part", metadata={"format": "pt"})
        os.replace(model_dir / f"{file}.part", model_dir / file)
    if len(shards) > 1:
        weight_map = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (model_dir / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


# ---------------------------------------------------------------------------------------------- names


def _slots(model: LlavaOnevision) -> list[_Slot]:
    """Every published tensor that the model wants."""
    slots = []
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        if isinstance(variable, nnx.LoRAParam):
            continue
        path, shape = tuple(map(str, path)), tuple(variable.shape)
        name = _published_name(".".join(path))
        if "{}" in name:
            each = _published_shape(path, shape[1:])
            slots += [_Slot(name.format(layer), path, layer, each) for layer in range(shape[0])]
        else:
            slots.append(_Slot(name, path, None, _published_shape(path, shape)))
    return slots


def _published_name(path: str) -> str:
    for ours, published in _PREFIXES:
        if path == ours:
            return published
        if path.startswith(ours + "."):
            middle, _, leaf = path[len(ours) :].rpartition(".")
            return f"{published}{middle}.{_LEAVES[leaf]}"
    raise ValueError(f"parameter {path!r} has no published name")


def _canonical(name: str) -> str:
    """The published (4.45) name of a tensor in any layout that transformers 4.45 to 5 write."""
    name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        name = f"language_model.{name}"
    if name.startswith("language_model.") and not name.startswith(("language_model.model.", "language_model.lm_head.")):
        name = name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name


def _is_passed_over(name: str) -> bool:
    return _PASSED_OVER.fullmatch(_canonical(name)) is not None


def _matched(tensors: Iterable[_Tensor], slots: Iterable[_Slot], model_dir: Path) -> dict[str, _Tensor]:
    """Tensors by published name, after checking that they are exactly those that the slots want."""
    wanted = {slot.name: slot for slot in slots}
    matched: dict[str, _Tensor] = {}
    unknown, doubled, misshaped = [], [], []
    for tensor in tensors:
        name = _canonical(tensor.name)
        if name in matched:
            doubled.append(f"{tensor.name} ({matched[name].file.name} and {tensor.file.name})")
        matched[name] = tensor
        if name not in wanted:
            if not _is_passed_over(name):
                unknown.append(tensor.name)
        elif tensor.slice.get_dtype() not in _FLOATS:
            misshaped.append(f"{tensor.name} (dtype {tensor.slice.get_dtype()} is not a float)")
        elif tensor.shape != wanted[name].shape:
            misshaped.append(f"{tensor.name} (is {tensor.shape}, must be {wanted[name].shape})")
    missing = [name for name in wanted if name not in matched]
    faults = {"unknown": unknown, "missing": missing, "doubled": doubled, "wrong shape or dtype": misshaped}
    if any(faults.values()):
        told = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
        raise BadInputError(f"{model_dir}: the weights do not fit config.json: {told}")
    return matched


# ---------------------------------------------------------------------------------------------- layouts


def _is_patch_kernel(path: ParamPath) -> bool:
    return path[-2:] == ("patch_embedding", "kernel")


def _published_shape(path: ParamPath, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A kernel is (in, out) here and (out, in) there; the patch kernel's rows are (row, column, colour)."""
    if _is_patch_kernel(path):
        side = math.isqrt(shape[0] // 3)
        return shape[1], 3, side, side
    return shape[::-1] if path[-1] == "kernel" else shape


def _from_published(path: ParamPath, tensor: _Tensor, index: tuple[slice, ...]) -> np.ndarray:
    """The part `index` (in our layout) of a published tensor."""
    if _is_patch_kernel(path):
        kernel = tensor.slice[:].transpose(2, 3, 1, 0)
        return kernel.reshape(-1, kernel.shape[-1])[index]
    return tensor.slice[index[::-1]].T if path[-1] == "kernel" else tensor.slice[index]


def _to_published(flat: Mapping[ParamPath, jax.Array], slot: _Slot) -> np.ndarray:
    value = np.asarray(flat[slot.path] if slot.layer is None else flat[slot.path][slot.layer])
    if _is_patch_kernel(slot.path):
        hidden, colours, side, _ = slot.shape
        value = value.reshape(side, side, colours, hidden).transpose(3, 2, 0, 1)
    elif slot.path[-1] == "kernel":
        value = value.T
    return np.ascontiguousarray(value)  # safetensors writes the buffer as it lies in memory


def _read_parameter(like: Any, slots: list[_Slot], tensors: Mapping[str, _Tensor]) -> jax.Array:
    """One parameter from its tensor, or from those of its layers; what several devices share is read once."""
    read: dict[Any, np.ndarray] = {}

    def from_slot(slot: _Slot, index: tuple[slice, ...]) -> np.ndarray:
        tensor = tensors[slot.name]
        try:
            return _from_published(slot.path, tensor, index)
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{tensor.file}: unreadable ({error}); fetch it again") from error

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


# ---------------------------------------------------------------------------------------------- files


def _open(model_dir: Path) -> list[_Tensor]:
    """All tensors of a directory's files; an index file, if there is one, says which these are."""
    index = model_dir / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise BadInputError(f"{index}: not an index of safetensors shards ({error!r})") from error
        files = [model_dir / name for name in names]
        if absent := [file.name for file in files if not file.is_file()]:
            raise BadInputError(f"{model_dir}: the index names files that are not there: {', '.join(absent)}")
    else:
        files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise BadInputError(f"{model_dir}: no *.safetensors files; other formats are not read (convert them first)")
    tensors = []
    for file in files:
        try:
            handle = safe_open(file, framework="numpy")
            tensors += [_Tensor(name, file, handle.get_slice(name)) for name in handle.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{file}: not a whole safetensors file ({error}); fetch it again") from error
    return tensors


def _split(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """Names by file, in order, each file as full as the limit allows."""
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if groups[-1] and used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups)}
