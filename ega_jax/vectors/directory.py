"""A directory of vectors: written shard by shard, so that work which stopped goes on.

vectors.json                          what they are: model, width, precision, number, shards
items.jsonl                           a line a vector, in order: id, text, images
vectors-00000-of-00012.safetensors    "vectors" (n, B); or .parquet with columns id and vector
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy
from pydantic import TypeAdapter, ValidationError

from ega_jax.errors import BadInputError
from ega_jax.files import write_whole
from ega_jax.vectors.items import Item
from ega_jax.vectors.precision import Precision, decode_vectors, encode_vectors

if TYPE_CHECKING:
    from jaxtyping import Float32, Shaped

SCHEMA, VERSION = "ega_jax.vectors", 1
DESCRIPTION, ITEMS = "vectors.json", "items.jsonl"
Format = Literal["safetensors", "parquet"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What a directory of vectors holds: `vectors.json`.

    Attributes:
      model: the directory of the model that made them.
      weights: the fingerprint of its weights.
      source: what was embedded.
      items: the hash of `items.jsonl`.
      instruction: that stood before every text.
      count: vectors in all.
      width: D.
      precision: how they are stored.
      format: of the shards.
      shard_size: vectors of each shard but the last.
    """

    model: str
    weights: str
    source: str
    items: str
    instruction: str
    count: int
    width: int
    precision: Precision
    format: Format
    shard_size: int
    schema: str = SCHEMA
    version: int = VERSION

    @property
    def shards(self) -> list[tuple[str, int, int]]:
        """File, first vector and the one after the last, of each shard."""
        starts = range(0, self.count, self.shard_size)
        return [
            (
                f"vectors-{place:05}-of-{len(starts):05}.{self.format}",
                start,
                min(start + self.shard_size, self.count),
            )
            for place, start in enumerate(starts)
        ]


def item_lines(items: Sequence[Item]) -> str:
    """The content of `items.jsonl`."""
    rows = ({"id": item.id, "text": item.text, "images": list(item.images)} for item in items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def digest(lines: str) -> str:
    """The hash that `Description.items` holds."""
    return hashlib.sha256(lines.encode()).hexdigest()


class VectorDirectory:
    """Vectors on disk.

    Attributes:
      path: of the directory.
      description: of its content.
    """

    def __init__(self, path: Path, description: Description) -> None:
        self.path, self.description = path, description

    @classmethod
    def create(cls, path: Path, description: Description, lines: str) -> VectorDirectory:
        """A new directory, or the one that the same work was writing.

        Raises:
          BadInputError: it holds something else; names what differs.
        """
        if (path / DESCRIPTION).exists():
            before = dataclasses.asdict(cls.open(path).description)
            now = dataclasses.asdict(description)
            if changed := [f"{name} {before[name]!r}, not {now[name]!r}" for name in now if before[name] != now[name]]:
                raise BadInputError(f"{path} holds other vectors ({'; '.join(changed)}): choose another directory")
            return cls(path, description)
        path.mkdir(parents=True, exist_ok=True)
        if any(file.name != ITEMS and file.name[0] != "." for file in path.iterdir()):
            raise BadInputError(f"{path} is not empty and holds no {DESCRIPTION}: choose another directory")
        write_whole(path / ITEMS, lines)
        write_whole(path / DESCRIPTION, json.dumps(dataclasses.asdict(description), indent=2) + "\n")
        return cls(path, description)

    @classmethod
    def open(cls, path: Path) -> VectorDirectory:
        """A directory that is there.

        Raises:
          BadInputError: it is none, or of a newer version.
        """
        try:
            content: Any = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
            if content.get("schema") != SCHEMA or content.get("version") != VERSION:
                raise BadInputError(f"{path / DESCRIPTION}: not of {SCHEMA}, version {VERSION}")
            return cls(path, TypeAdapter(Description).validate_python(content))
        except FileNotFoundError:
            raise BadInputError(f"{path}: no {DESCRIPTION}; make vectors with ega-jax embed") from None
        except (ValueError, AttributeError, ValidationError) as error:
            raise BadInputError(f"{path / DESCRIPTION}: damaged ({error})") from None

    def missing(self) -> list[tuple[str, int, int]]:
        """The shards that are still to be written."""
        return [shard for shard in self.description.shards if not (self.path / shard[0]).exists()]

    def write(self, shard: tuple[str, int, int], ids: Sequence[str], vectors: Float32[np.ndarray, "n D"]) -> None:
        """Writes one shard, whole or not at all."""
        stored = encode_vectors(vectors, self.description.precision)

        if self.description.format == "safetensors":
            # Not save_file, whose files only their owner may read.
            write_whole(self.path / shard[0], safetensors.numpy.save({"vectors": np.ascontiguousarray(stored)}))
            return
        flat = pa.array(stored.reshape(-1))
        vector = pa.FixedSizeListArray.from_arrays(flat, stored.shape[1])
        table = pa.table({"id": pa.array(list(ids), pa.string()), "vector": vector})
        write_whole(self.path / shard[0], lambda file: pq.write_table(table, file))

    def read(self) -> Shaped[np.ndarray, "count B"]:
        """All vectors as they are stored.

        Raises:
          BadInputError: a shard is missing or damaged.
        """
        if missing := self.missing():
            raise BadInputError(
                f"{self.path}: {len(missing)} of {len(self.description.shards)} shards are missing: start the same "
                "ega-jax embed again"
            )
        return np.concatenate([self._read(*shard) for shard in self.description.shards])

    def vectors(self) -> Float32[np.ndarray, "count D"]:
        """All vectors as unit rows.

        Raises:
          BadInputError: as `read`.
        """
        return decode_vectors(self.read(), self.description.precision)

    def items(self) -> Iterator[dict[str, Any]]:
        """id, text and images of each vector.

        Raises:
          BadInputError: the file is missing or was changed.
        """
        path = self.path / ITEMS
        try:
            lines = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"{path}: cannot be read ({error})") from None
        if digest(lines) != self.description.items:
            raise BadInputError(f"{path}: is not what the vectors were made of; embed again")
        # Not splitlines: a text may hold other line ends than "\n", which JSON escapes.
        return (json.loads(line) for line in lines.split("\n") if line)

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        file = self.path / name
        try:
            if self.description.format == "safetensors":
                stored = safetensors.numpy.load_file(file)["vectors"]
            else:
                column = pq.read_table(file, columns=["vector"])["vector"].combine_chunks()
                stored = column.flatten().to_numpy().reshape(len(column), -1)
        except (OSError, KeyError, safetensors.SafetensorError, pa.ArrowException) as error:
            raise BadInputError(
                f"{file}: damaged; delete it and start the same ega-jax embed again ({error})"
            ) from None
        if len(stored) != stop - start:
            raise BadInputError(f"{file}: holds {len(stored)} vectors, not {stop - start}; delete it and embed again")
        return stored
