"""Before the first step: the pictures of every row fit the largest buckets, or the row whose pictures do not is named.

A text that is too long loses its end; pictures are never cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ega_jax.data.images import ImageError
from ega_jax.data.records import BadRecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Int

    from ega_jax.data.buckets import Buckets
    from ega_jax.data.index import SideIndex, SubsetIndex
    from ega_jax.data.processor import Processor
    from ega_jax.data.records import Side, TrainRecord, TrainRows


def require_room(
    subset: TrainRows, index: SubsetIndex, processor: Processor, buckets: Buckets, *, negatives: bool = True
) -> None:
    """Checks the pictures of every side that may be trained on.

    Rows are read only where pictures and text together are longer than the largest bucket.

    Args:
      subset: the rows.
      index: of them.
      processor: the backbone's.
      buckets: the shapes that may be compiled.
      negatives: explicit hard negatives are trained on too.

    Raises:
      BadRecordError: the first side of each kind whose pictures take more image slots or tokens than there are.
    """
    for field, side, first, sides_of in _kinds(index, negatives):
        for place in np.flatnonzero(side.units > buckets.units[-1]).tolist():
            raise BadRecordError(
                *subset.location(_row(first, place)),
                field,
                f"{side.units[place]} {buckets.unit} a row, more than the largest of data.image_buckets "
                f"{buckets.units}: {_CURE}",
            )
        for place in np.flatnonzero((side.units > 0) & (side.tokens > buckets.tokens[-1])).tolist():
            row = _row(first, place)
            try:
                processor.require_room(sides_of(subset[row])[place - int(first[row])])
            except ImageError as error:
                raise BadRecordError(*subset.location(row), field, f"{error}: {_CURE}") from error


_CURE = "add a larger one, lower the resolution, or set data.on_large_images shrink"


def _kinds(
    index: SubsetIndex, negatives: bool
) -> Iterator[tuple[str, SideIndex, Int[np.ndarray, " n+1"], Callable[[TrainRecord], Sequence[Side]]]]:
    """Of each kind of side: its column, its index, where the sides of each row begin, and how a row's are read."""
    yield "qry_image_path", index.queries, np.arange(len(index.queries.units) + 1), lambda record: [record.query]
    yield "pos_image_path", index.positives, index.first_positive, lambda record: record.positives
    if negatives:
        yield "neg_image_path", index.negatives, index.first_negative, lambda record: record.negatives


def _row(first: Int[np.ndarray, " n+1"], place: int) -> int:
    """The row that has the side at `place`, where those of row i begin at first[i]."""
    return int(np.searchsorted(first, place, side="right")) - 1
