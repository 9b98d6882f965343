"""What every row of a training subset will cost, and which item it is: enough to plan a step without reading its rows.

Each host knows this of all rows, so that all hosts agree on a step's shapes and on which targets are the same item,
though each reads only its own rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ega_jax.data.images import ImageError, identity
from ega_jax.data.records import BadRecordError

if TYPE_CHECKING:
    from jaxtyping import Int

    from ega_jax.data.processor import Processor
    from ega_jax.data.records import Side, TrainRows

_CHUNK = 4096


class SideIndex(NamedTuple):
    """Of n sides: tokens and image slots they take, and a number that two sides share exactly if they are the same item
    (but for a collision of 63-bit hashes)."""

    tokens: Int[np.ndarray, " n"]
    units: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]


class SubsetIndex(NamedTuple):
    """The index of one subset of n rows.

    Attributes:
      queries: of each row.
      positives, negatives: of all rows' right targets and explicit negatives, one after another.
      first_positive, first_negative: (n + 1,) where those of each row begin.
    """

    queries: SideIndex
    positives: SideIndex
    negatives: SideIndex
    first_positive: Int[np.ndarray, " n+1"]
    first_negative: Int[np.ndarray, " n+1"]

    def take(self, rows: Int[np.ndarray, " k"]) -> SubsetIndex:
        """The index of these rows alone."""

        def chosen(side: SideIndex, first: np.ndarray) -> tuple[SideIndex, np.ndarray]:
            counts = np.diff(first)[rows]
            starts = np.cumsum(counts) - counts
            places = np.repeat(first[:-1][rows] - starts, counts) + np.arange(counts.sum())
            return SideIndex(*(values[places] for values in side)), np.cumsum([0, *counts])

        positives, first_positive = chosen(self.positives, self.first_positive)
        negatives, first_negative = chosen(self.negatives, self.first_negative)
        queries = SideIndex(*(values[rows] for values in self.queries))
        return SubsetIndex(queries, positives, negatives, first_positive, first_negative)

    @property
    def most_negatives(self) -> int:
        """The largest number of explicit negatives of a row."""
        return int(np.max(np.diff(self.first_negative), initial=0))


def index_subset(
    subset: TrainRows, processor: Processor, progress: Callable[[int], None] = lambda rows: None
) -> SubsetIndex:
    """Measures every row of `subset`.

    Args:
      subset: the rows.
      processor: the backbone's.
      progress: called with the number of rows done since the last call.

    Raises:
      BadRecordError: an image's header cannot be read.
    """
    queries, positives, negatives = [], [], []
    rights, wrongs = [0], [0]
    for start in range(0, len(subset), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(subset)))
        records = [subset[row] for row in rows]
        try:
            queries.append(_index([record.query for record in records], processor))
            positives.append(_index([side for record in records for side in record.positives], processor))
            negatives.append(_index([side for record in records for side in record.negatives], processor))
        except ImageError as error:
            _blame(subset, rows, processor)
            raise AssertionError("an image failed once and not again") from error
        rights += [len(record.positives) for record in records]
        wrongs += [len(record.negatives) for record in records]
        progress(len(rows))
    return SubsetIndex(_join(queries), _join(positives), _join(negatives), np.cumsum(rights), np.cumsum(wrongs))


def _index(sides: Sequence[Side], processor: Processor) -> SideIndex:
    sizes = processor.measure(sides)
    return SideIndex(*sizes, np.asarray([_item(side) for side in sides], np.int64))


def _item(side: Side) -> int:
    # Paths cannot hold NUL, so the separator makes (text, images) unambiguous.
    name = "\0".join([side.text, *map(identity, side.images)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1


def _join(parts: Sequence[SideIndex]) -> SideIndex:
    return SideIndex(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _blame(subset: TrainRows, rows: range, processor: Processor) -> None:
    """Raises the BadRecordError of the first row whose images cannot be measured."""
    for row in rows:
        record = subset[row]
        for field, side in [
            ("qry_image_path", record.query),
            *(("pos_image_path", side) for side in record.positives),
            *(("neg_image_path", side) for side in record.negatives),
        ]:
            try:
                processor.measure([side])
            except ImageError as error:
                raise BadRecordError(*subset.location(row), field, str(error)) from error
