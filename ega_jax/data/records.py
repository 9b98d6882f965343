"""The schema: what one training row and one evaluation subset are, whatever file they came from.

MMEB (arXiv 2410.05160) stores a side of a pair as a text that already holds an image token, `<|image_1|>`, where the
image belongs, and a path relative to an image directory; an absent side is the empty string. Readers (`data.mmeb`)
and generators (`data.glyphs`) speak that format on disk; everything downstream sees only the classes below.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ega_jax.data.images import StoredImage
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Int, Int32
    from PIL.Image import Image

IMAGE_TOKEN = "<|image_1|>"
"""MMEB's image token, as it stands in the texts of every published subset."""

MetaTask = Literal["classification", "vqa", "retrieval", "grounding", "other"]
Distribution = Literal["in", "out"]


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair: a query, a positive target, a negative or a candidate.

    Attributes:
      text: the text, with one image token where each image belongs; never empty unless there is an image.
      images: the images in reading order: a path of an encoded file, an encoded picture inside a larger file, or a
        decoded picture.
    Two sides are the same item exactly when their texts and image paths are equal.
    """

    text: str
    images: tuple[Path | StoredImage | Image, ...] = ()


def side_of(text: str, images: Sequence[Path | StoredImage | Image]) -> Side:
    """A side whose images come before its text, a line each."""
    tokens = "".join(IMAGE_TOKEN.replace("1", str(place + 1)) + "\n" for place in range(len(images)))
    return Side(tokens + text, tuple(images))


def described(side: Side) -> str:
    """What a side is, for messages: its text, no more than 80 characters of it, and the names of its images."""
    text = side.text if len(side.text) <= 80 else side.text[:79] + "…"
    images = [str(image) if isinstance(image, Path | StoredImage) else "a picture in memory" for image in side.images]
    return ", ".join([f"text {text!r}", *(f"image {image}" for image in images)])


@dataclasses.dataclass(frozen=True, slots=True)
class TrainRecord:
    """One training pair, with what else its row carries (mostly nothing).

    Attributes:
      query: one side of the pair.
      positive: the other, its right answer.
      negatives: explicit hard negatives.
      other_positives: targets that are as right as `positive`: one of all is drawn at a visit of the row.
    """

    query: Side
    positive: Side
    negatives: tuple[Side, ...] = ()
    other_positives: tuple[Side, ...] = ()

    @property
    def positives(self) -> tuple[Side, ...]:
        """All right targets, in the order of the row."""
        return (self.positive, *self.other_positives)


@dataclasses.dataclass(frozen=True, slots=True)
class SubsetInfo:
    """What a subset is: its place in MMEB's tables.

    Attributes:
      name: the directory name of the subset.
      meta_task: one of MMEB's four, or "other".
      distribution: "in" where a training set of the same task exists, "out" for a held-out one.
    """

    name: str
    meta_task: MetaTask = "other"
    distribution: Distribution = "in"


class TrainRows(Protocol):
    """The training rows of one subset, with random access, wherever they are kept; instances can be pickled.

    Attributes:
      info: name and place in the tables.
    """

    info: SubsetInfo

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> TrainRecord: ...

    def location(self, index: int) -> tuple[Path, int]:
        """The file that holds a row, and the row's number there, from 0: for error messages."""
        ...

    def take(self, rows: Int[np.ndarray, " n"]) -> TrainRows:
        """These rows alone."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class EvalSubset:
    """One evaluation subset: queries and, for each, its own pool of candidates, the right one first.

    Attributes:
      info: name and place in the tables.
      queries: one side a query.
      targets: the distinct candidates of all queries together, so that each is encoded once.
      candidates: one int32 array (C_i,) a query: indices into `targets`, the gold one at index 0.
    """

    info: SubsetInfo
    queries: tuple[Side, ...]
    targets: tuple[Side, ...]
    candidates: tuple[Int32[np.ndarray, " C"], ...]


class BadRecordError(BadInputError):
    """One record is wrong: where it stands and why.

    Attributes:
      file: the file that holds the row.
      row: its number, from 0.
      field: the column.
      reason: what is wrong with it, as a clause without a full stop.
    """

    def __init__(self, file: Path | str, row: int, field: str, reason: str) -> None:
        self.file, self.row, self.field, self.reason = Path(file), row, field, reason
        super().__init__(f"{file}, row {row}, field {field!r}: {reason}")

    def __reduce__(self) -> tuple[type, tuple]:  # an exception with its own __init__ must say how to cross processes
        return type(self), (self.file, self.row, self.field, self.reason)


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8: JSON's `\\ud800` escapes, for one, can make a str that
    cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
