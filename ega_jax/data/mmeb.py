"""Readers of data in MMEB's layout (arXiv 2410.05160): every row is checked before the first one is used.

    DIR/<subset>/original-*.parquet  training: qry, qry_image_path, pos_text, pos_image_path[, neg_text, neg_image_path]
    DIR/<subset>/diverse_instruction-*.parquet  the same under many wordings of the instructions
    DIR/<subset>/test-*.parquet      evaluation: qry_text, qry_img_path, tgt_text, tgt_img_path (lists, the gold first)
                                     [, qry_inst, tgt_inst: MMEB-V2's columns for instructions]
    DIR/images/..., DIR/*.zip        what the paths lead to; they are relative to DIR

Published rows have their traps, and each has one rule (`ega_jax.data.row_rules`). What can only mean one thing is
mended and counted:

- A text with an image token but no image (WebQA's queries) loses the token and the whitespace character after it.
- An image without a token gets one, before the text.
- An explicit negative that lacks its image, or that equals the positive, is dropped.
- A candidate that stands in its query's list already is dropped: a second gold would tie with the first.

What cannot be mended is a `BadRecordError` with file, row and column, or, on request, left out and counted: a side with
neither text nor image, more tokens than images, a path that leads nowhere or out of the directory, a file that is no
image, no candidates, lists of different lengths, invalid Unicode.

Texts are otherwise kept to the character: trailing newlines and double spaces are part of MMEB's format.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa

from ega_jax.data.bad_records import BadRecords
from ega_jax.data.image_files import ImageFiles
from ega_jax.data.images import ImageError, image_size, open_image
from ega_jax.data.prepared.manifest import is_prepared
from ega_jax.data.prepared.read import PreparedTrainSubset, read_prepared_eval, read_prepared_train
from ega_jax.data.raw_rows import Column, raw_rows
from ega_jax.data.records import BadRecordError, EvalSubset, Side, SubsetInfo, TrainRecord
from ega_jax.data.row_rules import Item, RowProblem, TrainRow, at, eval_row, train_row
from ega_jax.data.subsets import SUBSETS as SUBSETS
from ega_jax.data.subsets import EvalSplit, TrainSplit, find_files
from ega_jax.data.subsets import find_subsets as find_subsets
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from jaxtyping import Int

OnBadRecord = Literal["error", "skip"]
Verify = Literal["path", "header", "decode"]

_TRAIN_COLUMNS = (
    Column("qry", "string"),
    Column("qry_image_path", "string"),
    Column("pos_text", "string or list"),
    Column("pos_image_path", "string or list"),
    Column("neg_text", "string or list", required=False),
    Column("neg_image_path", "string or list", required=False),
)
_EVAL_COLUMNS = (
    Column("qry_text", "string"),
    Column("qry_img_path", "string"),
    Column("tgt_text", "list"),
    Column("tgt_img_path", "list"),
    Column("qry_inst", "string", required=False),
    Column("tgt_inst", "string", required=False),
)
_CHUNK = 256  # rows whose images are checked together
_THREADS = 8  # checking images mostly waits for the file system

_Row = TypeVar("_Row")


class TrainSubset:
    """The good training rows of one subset, in the order of the files, with random access.

    Rows stay in Arrow columns; a record is built when it is asked for. Instances can be pickled.

    Attributes:
      info: name and place in the tables.
      skipped: what the reader left out and mended.
    """

    def __init__(
        self, info: SubsetInfo, images: ImageFiles, files: list[Path], rows: pa.Table, skipped: BadRecords
    ) -> None:
        """
        Args:
          info: name and place in the tables.
          images: what image paths lead to.
          files: the files that the rows came from.
          rows: columns `qry`, `qry_image_path` (strings), `pos_text`, `pos_image_path`, `neg_text`,
            `neg_image_path` (lists of strings, parallel), `file` (index into `files`), `row` (number within
            the file).
          skipped: what the reader left out and mended.
        """
        self.info = info
        self.skipped = skipped
        self._images = images
        self._files = files
        self._table = rows.combine_chunks()
        # One chunk a column, so that a cell is found without a search.
        self._columns = {name: self._table.column(name).chunk(0) for name in self._table.column_names}

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> TrainRecord:
        index = self._checked(index)
        query = Item(self._cell("qry", index), self._cell("qry_image_path", index))
        positive, *others = self._sides("pos_text", "pos_image_path", index)
        negatives = self._sides("neg_text", "neg_image_path", index)
        return TrainRecord(_side(self._images, query), positive, tuple(negatives), tuple(others))

    def take(self, rows: Int[np.ndarray, " n"]) -> TrainSubset:
        """The subset of these rows alone."""
        return TrainSubset(self.info, self._images, self._files, self._table.take(pa.array(rows)), self.skipped)

    def location(self, index: int) -> tuple[Path, int]:
        """The file that holds a row, and the row's number there, from 0: for error messages."""
        index = self._checked(index)
        return self._files[self._cell("file", index)], self._cell("row", index)

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column of the good rows, mended; names as in `__init__`."""
        return self._table.column(name)

    def _sides(self, texts: str, paths: str, index: int) -> list[Side]:
        pairs = zip(self._cell(texts, index), self._cell(paths, index), strict=True)
        return [_side(self._images, Item(*pair)) for pair in pairs]

    def _cell(self, name: str, index: int) -> Any:
        return self._columns[name][index].as_py()

    def _checked(self, index: int) -> int:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"row {position} of {len(self)} of {self.info.name}")
        return position % len(self)

    def __reduce__(self) -> tuple:
        return type(self), (self.info, self._images, self._files, self._table, self.skipped)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ReadEvalSubset(EvalSubset):
    """An evaluation subset that came from files.

    Attributes:
      skipped: what the reader left out and mended.
    """

    skipped: BadRecords


def read_train(
    directory: Path | str,
    subset: str,
    split: TrainSplit = "train",
    *,
    on_bad_record: OnBadRecord = "error",
    verify_images: Verify = "header",
    image_directory: Path | str | None = None,
    keep_errors: int | None = 5,
) -> TrainSubset | PreparedTrainSubset:
    """Reads and checks the training rows of one subset; those of a prepared directory were checked when it was made.

    Explicit negatives may be a string, a list of strings, or a string that holds a list in JSON or Python (as
    in mmE5-MMEB-hardneg; parsed as data, never run); where only one of the two columns has them, the other
    counts as empty. Positives may be a string or a list of strings.

    Args:
      directory: the data directory.
      subset: the name of a subset; see `find_subsets`.
      split: MMEB's original rows, or those whose instructions are worded in many ways.
      on_bad_record: "error" raises at the first bad row, "skip" leaves bad rows out and counts them in
        `.skipped`.
      verify_images: what every image is held to: its "path" leads to a file in the directory, its "header" is
        one of an image, or it can be "decode"d whole (a truncated file shows only then).
      image_directory: what image paths are relative to; default `directory`.
      keep_errors: how many errors `.skipped` keeps whole; None keeps all.

    Raises:
      BadInputError: no such subset, an unreadable file, wrong columns, or no good row.
      BadRecordError: a row is wrong and `on_bad_record` is "error".
    """
    if is_prepared(directory):
        return read_prepared_train(directory, subset, split)
    info, files = find_files(directory, subset, split)
    images = ImageFiles(directory if image_directory is None else image_directory)
    skipped = BadRecords(keep_errors)
    batches = []
    good = _good_rows(
        files,
        _TRAIN_COLUMNS,
        lambda values: train_row(values, skipped.mended),
        lambda row: [
            ("qry_image_path", [row.query]),
            ("pos_image_path", row.positives),
            ("neg_image_path", row.negatives),
        ],
        _ImageChecker(images, verify_images),
        skipped,
        on_bad_record,
    )
    while chunk := list(itertools.islice(good, _CHUNK)):
        batches.append(_arrow(chunk))
    _require_rows(info, files, skipped)
    return TrainSubset(info, images, files, pa.Table.from_batches(batches), skipped)


def read_eval(
    directory: Path | str,
    subset: str,
    split: EvalSplit = "test",
    *,
    on_bad_record: OnBadRecord = "error",
    verify_images: Verify = "header",
    image_directory: Path | str | None = None,
    keep_errors: int | None = 5,
) -> ReadEvalSubset:
    """Reads and checks the evaluation rows of one subset.

    Args and errors are those of `read_train`. One bad candidate makes its whole row bad: a smaller pool is
    another task.
    """
    if is_prepared(directory):
        prepared, sides, pool, lists, account = read_prepared_eval(directory, subset, split)
        return ReadEvalSubset(prepared, tuple(sides), tuple(pool), tuple(lists), account)
    info, files = find_files(directory, subset, split)
    images = ImageFiles(directory if image_directory is None else image_directory)
    skipped = BadRecords(keep_errors)
    queries: list[Side] = []
    places: dict[Item, int] = {}
    candidates: list[np.ndarray] = []
    known: dict[tuple[str, str], Item] = {}
    good = _good_rows(
        files,
        _EVAL_COLUMNS,
        lambda values: eval_row(values, known, skipped.mended, info.name),
        lambda row: [("qry_img_path", [row.query]), ("tgt_img_path", row.targets)],
        _ImageChecker(images, verify_images),
        skipped,
        on_bad_record,
    )
    for _, _, row in good:
        queries.append(_side(images, row.query))
        candidates.append(np.asarray([places.setdefault(item, len(places)) for item in row.targets], np.int32))
    _require_rows(info, files, skipped)
    targets = tuple(_side(images, item) for item in places)
    return ReadEvalSubset(info, tuple(queries), targets, tuple(candidates), skipped)


def _good_rows(
    files: Iterable[Path],
    columns: tuple[Column, ...],
    parse: Callable[[dict[str, Any]], _Row],
    items: Callable[[_Row], list[tuple[str, list[Item]]]],
    images: _ImageChecker,
    skipped: BadRecords,
    on_bad_record: OnBadRecord,
) -> Iterator[tuple[int, int, _Row]]:
    """(index of the file, number of the row, row) of every row that passes; the others are raised or counted."""
    if on_bad_record not in ("error", "skip"):
        raise ValueError(f"on_bad_record must be 'error' or 'skip', got {on_bad_record!r}")

    def handle(error: BadRecordError) -> None:
        if on_bad_record == "error":
            raise error
        skipped.add(error)

    for file_index, file in enumerate(files):
        source = raw_rows(file, columns)
        while chunk := list(itertools.islice(source, _CHUNK)):
            skipped.rows += len(chunk)
            parsed: list[tuple[int, _Row | BadRecordError]] = []
            for number, values in chunk:
                try:
                    parsed.append((number, values if isinstance(values, BadRecordError) else parse(values)))
                except RowProblem as problem:
                    parsed.append((number, BadRecordError(file, number, *problem.args)))
            rows = [row for _, row in parsed if not isinstance(row, BadRecordError)]
            images.check(item.path for row in rows for _, side in items(row) for item in side)
            for number, row in parsed:
                if isinstance(row, BadRecordError):
                    handle(row)
                elif (bad := _first_bad_image(items(row), images)) is not None:
                    handle(BadRecordError(file, number, *bad))
                else:
                    yield file_index, number, row


def _first_bad_image(columns: list[tuple[str, list[Item]]], images: _ImageChecker) -> tuple[str, str] | None:
    for column, items in columns:
        for place, item in enumerate(items):
            if (reason := images.reason(item.path)) is not None:
                return column, reason if len(items) == 1 else at(reason, place)
    return None


class _ImageChecker:
    """Holds every distinct image to `verify_images`, once."""

    def __init__(self, files: ImageFiles, verify: Verify) -> None:
        if verify not in ("path", "header", "decode"):
            raise ValueError(f"verify_images must be 'path', 'header' or 'decode', got {verify!r}")
        self._files = files
        self._verify = verify
        self._reasons: dict[str, str | None] = {"": None}

    def check(self, paths: Iterable[str]) -> None:
        """Looks at those paths that are new, several at a time."""
        new = [path for path in dict.fromkeys(paths) if path not in self._reasons]
        if not new:
            return
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            self._reasons.update(zip(new, pool.map(self._look, new), strict=True))

    def reason(self, path: str) -> str | None:
        """Why a checked path is bad, or None."""
        return self._reasons[path]

    def _look(self, relative: str) -> str | None:
        try:
            source = self._files.find(relative)
            if self._verify == "header":
                image_size(source)
            elif self._verify == "decode":
                open_image(source)
        except ImageError as error:
            return str(error)
        return None


def _arrow(chunk: list[tuple[int, int, TrainRow]]) -> pa.RecordBatch:
    rows = [row for _, _, row in chunk]
    text, texts = pa.large_string(), pa.large_list(pa.large_string())  # 32-bit offsets end at 2 GiB a column
    columns = {
        "qry": pa.array([row.query.text for row in rows], text),
        "qry_image_path": pa.array([row.query.path for row in rows], text),
        "pos_text": pa.array([[item.text for item in row.positives] for row in rows], texts),
        "pos_image_path": pa.array([[item.path for item in row.positives] for row in rows], texts),
        "neg_text": pa.array([[item.text for item in row.negatives] for row in rows], texts),
        "neg_image_path": pa.array([[item.path for item in row.negatives] for row in rows], texts),
        "file": pa.array([file for file, _, _ in chunk], pa.int32()),
        "row": pa.array([row for _, row, _ in chunk], pa.int64()),
    }
    return pa.RecordBatch.from_pydict(columns)


def _require_rows(info: SubsetInfo, files: list[Path], skipped: BadRecords) -> None:
    if skipped.rows == skipped.skipped:
        first = f"all {skipped.rows} rows are bad, the first: {skipped.first[0]}" if skipped.first else "no rows"
        raise BadInputError(f"subset {info.name!r} ({files[0]}): {first}")


def _side(images: ImageFiles, item: Item) -> Side:
    return Side(item.text, (images.source(item.path),) if item.path else ())
