"""The safetensors files of a model directory: opened without reading, and laid down shard by shard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ega_jax.errors import BadInputError

INDEX = "model.safetensors.index.json"
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes of weights, by the names that the files have for them."""

_NAMES_OF_DTYPES = {dtype.name: name for name, dtype in DTYPES.items()}
_PIECE_BYTES = 2**23


class Tensor(NamedTuple):
    """A tensor on disk, of which nothing is read until it is asked for."""

    name: str  # as the file has it
    file: Path
    shape: tuple[int, ...]
    dtype_name: str  # as the file has it

    @property
    def dtype(self) -> np.dtype | None:
        """None for those that weights do not have."""
        return DTYPES.get(self.dtype_name)

    def pieces(self) -> Iterator[np.ndarray]:
        """Its values as consecutive rows, a few megabytes at a time.

        Raises:
          BadInputError: the file cannot be read.
        """
        assert self.dtype is not None
        rows = self.shape[0] if self.shape else 1
        step = max(1, _PIECE_BYTES * rows // max(1, math.prod(self.shape) * self.dtype.itemsize))
        for start in range(0, rows, step):
            yield self.read(slice(start, min(start + step, rows)) if self.shape else slice(None))

    def source(self, name: str) -> Source:
        """The same tensor, to be written under this name.

        Raises:
          BadInputError: it does not hold floats.
        """
        if self.dtype is None:
            raise BadInputError(f"{self.file}: {self.name} has dtype {self.dtype_name}, which is not a float")
        return Source(name, self.dtype, self.shape, self.pieces)

    def read(self, index: slice | tuple[slice, ...]) -> np.ndarray:
        """A part of it.

        Raises:
          BadInputError: the file cannot be read.
        """
        try:
            # Opened anew each time, in a millisecond: the file is mapped, and what was read of it would stay with the
            # process for as long as it is open, beside the parameters that were made of it.
            with safe_open(self.file, framework="numpy") as file:
                return file.get_slice(self.name)[index]
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{self.file}: unreadable ({error}); fetch it again") from error


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
        raise BadInputError(f"{model_dir}: no *.safetensors files{_pickles(model_dir)}")
    tensors = []
    for file in files:
        try:
            with safe_open(file, framework="numpy") as handle:
                slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
                tensors += [Tensor(name, file, tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()]
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{file}: not a whole safetensors file ({error}); fetch it again") from error
    return tensors


def _pickles(model_dir: Path) -> str:
    """What to do about weights in a format that can run code when it is read."""
    if found := sorted(path.name for ending in ("bin", "pt", "pth", "ckpt") for path in model_dir.glob(f"*.{ending}")):
        return (
            f", but {found[0]}, a pickle, which can run code when it is read and is refused; if you trust it, write "
            "safetensors with transformers: AutoModelForImageTextToText.from_pretrained(DIR).save_pretrained(NEW)"
        )
    return "; other formats are not read"


class Source(NamedTuple):
    """A tensor to be written.

    Attributes:
      name, dtype, shape: what the head of a file says of it.
      pieces: makes its values anew, as consecutive rows; each piece is dropped before the next is asked for.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[np.ndarray]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(
    model_dir: Path,
    sources: Sequence[Source],
    *,
    max_shard_bytes: int,
    progress: Callable[[int], None] = lambda n: None,
) -> None:
    """Writes tensors in order, as one file or as shards with an index; one piece at a time is in memory.

    Args:
      model_dir: exists.
      sources: what to write.
      max_shard_bytes: a new file starts where this would be passed.
      progress: called with the number of bytes written since the last call.
    """
    shards = _split(sources, max_shard_bytes)
    for file, members in shards.items():
        # Written under another name first: a file that has its right name is a whole one.
        partial = model_dir / f"{file}.part"
        write_file(partial, members, progress)
        os.replace(partial, model_dir / file)
    if len(shards) > 1:
        weight_map = {source.name: file for file, members in shards.items() for source in members}
        index = {"metadata": {"total_size": sum(source.nbytes for source in sources)}, "weight_map": weight_map}
        (model_dir / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_file(path: Path, sources: Iterable[Source], progress: Callable[[int], None] = lambda written: None) -> None:
    """Writes one file: the length of the head, the head (JSON), the values.

    The library's own writer wants all values at once in memory.
    """
    head: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for source in sources:
        start, end = end, end + source.nbytes
        dtype = _NAMES_OF_DTYPES[source.dtype.name]
        head[source.name] = {"dtype": dtype, "shape": list(source.shape), "data_offsets": [start, end]}
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for source in sources:
            written = 0
            for piece in source.pieces():
                file.write(np.ascontiguousarray(piece, source.dtype).view(np.uint8).data)
                written += piece.size * source.dtype.itemsize
                progress(piece.size * source.dtype.itemsize)
            if written != source.nbytes:
                raise ValueError(f"{source.name}: {written} bytes came, {source.nbytes} were announced")


def _split(sources: Iterable[Source], limit: int) -> dict[str, list[Source]]:
    """Tensors by file, in order, each file as full as the limit (bytes) allows."""
    groups: list[list[Source]] = [[]]
    used = 0
    for source in sources:
        if groups[-1] and used + source.nbytes > limit:
            groups.append([])
            used = 0
        groups[-1].append(source)
        used += source.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}
