"""The safetensors files of a model directory: opened without reading, and laid down shard by shard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from ega_jax.errors import BadInputError

INDEX = "model.safetensors.index.json"


class Tensor(NamedTuple):
    """A tensor on disk: `get_slice` of an open file, which reads nothing until it is indexed."""

    name: str  # as the file has it
    file: Path
    slice: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.slice.get_shape())


def open_tensors(model_dir: Path) -> list[Tensor]:
    """All tensors of a directory's files; an index file, if there is one, says which these are.

    Raises:
      BadInputError: there are none, or one is missing or not whole; names it.
    """
    index = model_dir / INDEX
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
            tensors += [Tensor(name, file, handle.get_slice(name)) for name in handle.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{file}: not a whole safetensors file ({error}); fetch it again") from error
    return tensors


def split(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """Names by file, in order, each file as full as the limit (bytes) allows."""
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
