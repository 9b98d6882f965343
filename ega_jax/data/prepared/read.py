"""Reading what was prepared: the same records as from the directory that it was made of."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ega_jax.data.bad_records import BadRecords
from ega_jax.data.prepared.manifest import POOL, Part, outline_file, read_manifest, shard_files
from ega_jax.data.prepared.records import FIELDS, RecordImage, opened
from ega_jax.data.records import Side, SubsetInfo, TrainRecord
from ega_jax.data.subsets import suggestion
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from jaxtyping import Int


class PreparedRows:
    """The rows of one part, with random access. Texts and sizes are in memory; pictures are read when opened."""

    def __init__(self, directory: Path, part: Part, numbers: Int[np.ndarray, " n"] | None = None) -> None:
        """
        Args:
          directory: the prepared one.
          part: which part of it.
          numbers: which of its rows; default all.

        Raises:
          BadInputError: a file is missing, damaged or of another preparation.
        """
        self._directory, self._part = directory, part
        self._shards = shard_files(directory, part.split, part.subset, len(part.shards))
        self._first = np.cumsum([0, *part.shards])
        self.numbers = np.arange(part.rows) if numbers is None else np.asarray(numbers)
        self._outline = _outline(self._shards, part)

    def __len__(self) -> int:
        return len(self.numbers)

    def sides(self, index: int) -> dict[str, list[Side]]:
        """The sides of a row, by `records.FIELDS`."""
        shard, number, row = self._place(index)
        return {field: list(_sides(self._cell(field, row), shard, number, field)) for field in FIELDS}

    def candidates(self, index: int) -> list[int]:
        """The rows of the pool that an evaluation row is compared with."""
        return self._cell("candidates", self._place(index)[2])

    def location(self, index: int) -> tuple[Path, int]:
        """The file that holds a row, and the row's number there, from 0."""
        return self._place(index)[:2]

    def take(self, rows: Int[np.ndarray, " n"]) -> PreparedRows:
        """These rows alone."""
        return PreparedRows(self._directory, self._part, self.numbers[np.asarray(rows)])

    def _place(self, index: int) -> tuple[Path, int, int]:
        row = int(self.numbers[operator.index(index)])
        shard = int(np.searchsorted(self._first, row, side="right")) - 1
        return self._shards[shard], row - int(self._first[shard]), row

    def _cell(self, name: str, row: int) -> Any:
        return self._outline[name][row].as_py()

    def __reduce__(self) -> tuple:
        return PreparedRows, (self._directory, self._part, self.numbers)


class PreparedTrainSubset:
    """The training rows of one subset: what `ega_jax.data.mmeb.TrainSubset` is of a directory that is not prepared.

    Attributes:
      info: name and place in the tables.
      skipped: what was left out and mended when it was prepared.
      home: where indices of its rows are kept.
      whole: all rows of the subset, where this is a choice of them.
      numbers: which of them these are.
    """

    def __init__(self, info: SubsetInfo, directory: Path, part: Part, rows: PreparedRows | None = None) -> None:
        self.info, self.skipped = info, _account(part)
        self.home = directory / "index"
        self.name = f"{part.split}-{part.subset}"
        self._directory, self._part = directory, part
        self._rows = PreparedRows(directory, part) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TrainRecord:
        if not -len(self) <= operator.index(index) < len(self):
            raise IndexError(f"row {index} of {len(self)} of {self.info.name}")
        sides = self._rows.sides(index)
        (query,), (positive, *others) = sides["query"], sides["targets"]
        return TrainRecord(query, positive, tuple(sides["negatives"]), tuple(others))

    def location(self, index: int) -> tuple[Path, int]:
        """The file that holds a row, and the row's number there, from 0: for error messages."""
        return self._rows.location(index)

    def take(self, rows: Int[np.ndarray, " n"]) -> PreparedTrainSubset:
        """The subset of these rows alone."""
        return PreparedTrainSubset(self.info, self._directory, self._part, self._rows.take(rows))

    @property
    def whole(self) -> PreparedTrainSubset:
        return PreparedTrainSubset(self.info, self._directory, self._part)

    @property
    def numbers(self) -> Int[np.ndarray, " n"]:
        return self._rows.numbers

    def __reduce__(self) -> tuple:
        return PreparedTrainSubset, (self.info, self._directory, self._part, self._rows)


def prepared_part(directory: Path | str, split: str, subset: str) -> tuple[SubsetInfo, Part]:
    """
    Raises:
      BadInputError: it holds no such split of such a subset.
    """
    manifest = read_manifest(directory)
    part = manifest.part(split, subset)
    if part is None:
        known = [info.name for info in manifest.subsets(split)]
        raise BadInputError(
            f"{directory} has no {split} rows of subset {subset!r}{suggestion(subset, known)}; "
            f"of that split it has {', '.join(known) or 'none'}"
        )
    return manifest.infos[subset], part


def read_prepared_train(directory: Path | str, subset: str, split: str) -> PreparedTrainSubset:
    """The training rows of one subset."""
    info, part = prepared_part(directory, split, subset)
    return PreparedTrainSubset(info, Path(directory), part)


def read_prepared_eval(
    directory: Path | str, subset: str, split: str
) -> tuple[SubsetInfo, list[Side], list[Side], list[np.ndarray], BadRecords]:
    """The queries, the distinct candidates, and the candidates of each query of one subset."""
    info, part = prepared_part(directory, split, subset)
    _, pool = prepared_part(directory, split + POOL, subset)
    queries, targets = PreparedRows(Path(directory), part), PreparedRows(Path(directory), pool)
    return (
        info,
        [queries.sides(row)["query"][0] for row in range(len(queries))],
        [targets.sides(row)["targets"][0] for row in range(len(targets))],
        [np.asarray(queries.candidates(row), np.int32) for row in range(len(queries))],
        _account(part),
    )


def _outline(shards: list[Path], part: Part) -> dict[str, pa.Array]:
    tables = []
    for shard, rows in zip(shards, part.shards, strict=True):
        outline = outline_file(shard)
        try:
            table = pq.read_table(outline)
        except (OSError, pa.ArrowException) as error:
            raise BadInputError(f"{outline}: cannot be read ({error}); prepare the data again") from None
        if table.num_rows != rows or opened(shard).num_records() != rows:
            raise BadInputError(f"{shard}: not the {rows} rows that were prepared; prepare the data again")
        tables.append(table)
    table = pa.concat_tables(tables).combine_chunks()
    # One chunk a column, so that a cell is found without a search.
    return {name: table.column(name).combine_chunks() for name in table.column_names}


def _sides(cells: list[dict[str, Any]], shard: Path, number: int, field: str) -> Iterator[Side]:
    for place, cell in enumerate(cells):
        size = (cell["height"], cell["width"])
        images = (RecordImage(shard, number, field, place, cell["hash"], size),) if cell["hash"] else ()
        yield Side(cell["text"], images)


def _account(part: Part) -> BadRecords:
    left_out = sum(part.skipped.values())
    return BadRecords(rows=part.seen, skipped=left_out, reasons=Counter(part.skipped), mended=Counter(part.mended))
