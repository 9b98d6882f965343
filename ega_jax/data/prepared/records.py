"""One prepared row: what its record holds, and a picture that is read out of it when it is opened."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from array_record.python.array_record_module import ArrayRecordReader

from ega_jax.data.image_files import ZippedImage
from ega_jax.data.images import ImageError, StoredImage
from ega_jax.data.prepared import tf_example
from ega_jax.errors import BadInputError

FIELDS = ("query", "targets", "negatives")
"""The sides of a row. `targets` are its right ones; a row of a pool of candidates has one, and no query."""


class RowSide(NamedTuple):
    """One side as it is written: its text, its encoded picture and the path that it had, both empty without one."""

    text: str
    image: bytes = b""
    path: str = ""


class Row(NamedTuple):
    """One row as it is written.

    Attributes:
      query: of a row of a pool of candidates, empty.
      targets, negatives: right and wrong ones.
      candidates: of an evaluation row, the rows of its pool, the right one first.
      source: where it comes from.
    """

    query: RowSide
    targets: Sequence[RowSide] = ()
    negatives: Sequence[RowSide] = ()
    candidates: Sequence[int] = ()
    source: str = ""


def encode(row: Row) -> bytes:
    """The record of a row."""
    features: dict[str, Sequence[bytes] | Sequence[int]] = {
        "candidates": row.candidates,
        "source": [row.source.encode()],
    }
    for field, sides in zip(FIELDS, ([row.query], row.targets, row.negatives), strict=True):
        features[f"{field}/text"] = [side.text.encode() for side in sides]
        features[f"{field}/image"] = [side.image for side in sides]
        features[f"{field}/path"] = [side.path.encode() for side in sides]
    return tf_example.encode(features)


class RecordImage(StoredImage):
    """A picture in a prepared file.

    Attributes:
      file, number: the file and the record in it.
      field, place: which side of the row.
      identity: the hash of its bytes: equal pictures are one item wherever they lie.
      size: (height, width), known without reading it.
    """

    __slots__ = ("field", "file", "identity", "number", "place", "size")

    def __init__(
        self, file: Path, number: int, field: str, place: int, identity: str = "", size: tuple[int, int] | None = None
    ) -> None:
        self.file, self.number, self.field, self.place = file, number, field, place
        self.identity, self.size = identity, size

    def read_bytes(self) -> bytes:
        try:
            return bytes(_record(self.file, self.number)[f"{self.field}/image"][self.place])
        except (RuntimeError, ValueError, KeyError, IndexError, BadInputError) as error:
            raise ImageError(f"cannot be read from its record: {error}") from None

    def __str__(self) -> str:
        return f"{self.file}#{self.number}/{self.field}/{self.place}"

    def __repr__(self) -> str:
        return f"RecordImage({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordImage) and (self.identity or str(self)) == (other.identity or str(other))

    def __hash__(self) -> int:
        return hash(self.identity or str(self))

    def __reduce__(self) -> tuple:
        return RecordImage, (self.file, self.number, self.field, self.place, self.identity, self.size)

    @classmethod
    def named(cls, name: str) -> RecordImage:
        """The picture that `str` gave this name."""
        file, _, place = name.rpartition("#")
        number, field, within = place.split("/")
        return cls(Path(file), int(number), field, int(within))


@functools.lru_cache(maxsize=64)  # the pictures of one row are opened one after another
def _record(file: Path, number: int) -> dict[str, tf_example.Values]:
    return tf_example.decode(opened(file).read([number])[0])


@functools.lru_cache(maxsize=1024)
def opened(file: Path) -> ArrayRecordReader:
    """A file of records that stays open; reading is safe on threads.

    Raises:
      BadInputError: it is missing or not whole.
    """
    reader = ArrayRecordReader(str(file), "readahead_buffer_size:0")
    if not file.is_file() or not reader.ok():
        raise BadInputError(f"{file}: missing or not whole; prepare the data again")
    return reader


def named_image(name: str) -> Path | StoredImage:
    """The picture that `str` of a path or of a stored picture names: what a report finds in a run's files."""
    container, _, member = name.partition(".zip#")
    if member:
        return ZippedImage(Path(f"{container}.zip"), member)
    return RecordImage.named(name) if ".array_record-" in name and "#" in name else Path(name)
