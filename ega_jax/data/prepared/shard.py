"""Writing one shard: rows with their pictures into ArrayRecord, and their outline beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter

from ega_jax.data.image_files import ZippedImage
from ega_jax.data.images import ImageError, StoredImage, open_image
from ega_jax.data.prepared.manifest import outline_file
from ega_jax.data.prepared.records import FIELDS, Row, RowSide, encode
from ega_jax.data.records import BadRecordError, Side, TrainRows
from ega_jax.files import write_whole

# A record a group, so that one row is read alone; pictures are compressed already.
_OPTIONS = "group_size:1,uncompressed"
_COLUMNS = {"query": "qry_image_path", "targets": "pos_image_path", "negatives": "neg_image_path"}
_SIDES = pa.list_(
    pa.struct([("text", pa.string()), ("hash", pa.string()), ("height", pa.int32()), ("width", pa.int32())])
)
SCHEMA = pa.schema([*((field, _SIDES) for field in FIELDS), ("candidates", pa.list_(pa.int64()))])
"""Of an outline: the sides of each row, in lists, also the query's one."""


@dataclasses.dataclass(frozen=True)
class PlainRow:
    """A row whose pictures are still to be read.

    Attributes:
      query, targets, negatives: the sides; `query` is None in a pool of candidates.
      candidates: see `records.Row`.
      file, number: where it comes from.
    """

    query: Side | None
    targets: Sequence[Side] = ()
    negatives: Sequence[Side] = ()
    candidates: Sequence[int] = ()
    file: Path = Path()
    number: int = 0


@dataclasses.dataclass(frozen=True)
class Written:
    """What a shard holds: rows, bytes, and the rows that were left out."""

    rows: int
    bytes: int
    bad: tuple[BadRecordError, ...]

    def save(self, path: Path) -> None:
        bad = [[str(error.file), error.row, error.field, error.reason] for error in self.bad]
        write_whole(path, json.dumps({"rows": self.rows, "bytes": self.bytes, "bad": bad}) + "\n")

    @classmethod
    def load(cls, path: Path) -> Written:
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["rows"], content["bytes"], tuple(BadRecordError(*bad) for bad in content["bad"]))


def write_shard(
    shard: Path, marker: Path, rows: TrainRows | Sequence[PlainRow], home: Path, skip: bool
) -> tuple[Path, Written]:
    """Writes one shard and its outline, each whole or not at all, and then the marker that says so.

    Args:
      shard: the file.
      marker: the marker's.
      rows: what to write.
      home: what pictures' paths are written relative to.
      skip: leave out rows with a picture that does not decode, instead of raising.

    Raises:
      BadRecordError: a picture does not decode.
    """
    partial = shard.with_name(f".{shard.name}.{os.getpid()}")
    writer = ArrayRecordWriter(str(partial), _OPTIONS)
    outline: list[dict[str, object]] = []
    bad = []
    try:
        for row in _plain(rows):
            try:
                written, lines = _read(row, home)
            except BadRecordError as error:
                if not skip:
                    raise
                bad.append(error)
                continue
            writer.write(encode(written))
            outline.append(lines)
        writer.close()
    except BaseException:
        writer.close()
        partial.unlink()
        raise
    outlined = outline_file(shard)
    half = outlined.with_name(f".{outlined.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(outline, SCHEMA), half)
    half.replace(outlined)
    partial.replace(shard)
    result = Written(len(outline), shard.stat().st_size, tuple(bad))
    result.save(marker)
    return shard, result


def _plain(rows: TrainRows | Sequence[PlainRow]) -> Iterator[PlainRow]:
    if isinstance(rows, Sequence):
        yield from rows
        return
    for number in range(len(rows)):
        row = rows[number]
        yield PlainRow(row.query, row.positives, row.negatives, (), *rows.location(number))


def _read(row: PlainRow, home: Path) -> tuple[Row, dict[str, object]]:
    """A row with its pictures, and its outline."""
    sides: dict[str, list[RowSide]] = {}
    lines: dict[str, object] = {"candidates": list(row.candidates)}
    for field, members in zip(FIELDS, ([row.query or Side("")], row.targets, row.negatives), strict=True):
        sides[field], outlines = [], []
        for side in members:
            try:
                written, size = _picture(side, home)
            except ImageError as error:
                raise BadRecordError(row.file, row.number, _COLUMNS[field], str(error)) from None
            sides[field].append(written)
            digest = hashlib.blake2b(written.image, digest_size=16).hexdigest() if written.image else ""
            outlines.append({"text": side.text, "hash": digest, "height": size[0], "width": size[1]})
        lines[field] = outlines
    source = f"{row.file.parent.name}/{row.file.name}#{row.number}"
    (query,) = sides["query"]
    return Row(query, sides["targets"], sides["negatives"], row.candidates, source), lines


def _picture(side: Side, home: Path) -> tuple[RowSide, tuple[int, int]]:
    """A side with its encoded picture, decoded once to see that it does, and (height, width) upright."""
    if not side.images:
        return RowSide(side.text), (0, 0)
    (source,) = side.images
    if isinstance(source, Path):
        try:
            content = source.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror} ({source})") from None
        path = source.relative_to(home).as_posix() if source.is_relative_to(home) else source.name
    else:
        assert isinstance(source, StoredImage)
        content = source.read_bytes()
        path = source.member if isinstance(source, ZippedImage) else str(source)
    try:
        picture = open_image(content)
    except ImageError as error:
        raise ImageError(f"{error} ({source})") from None
    return RowSide(side.text, content, path), (picture.height, picture.width)
