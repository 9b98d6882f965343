"""The padded shapes that programs are compiled for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from jaxtyping import Int


class Bucket(NamedTuple):
    """One padded shape.

    Attributes:
      tokens: length of every row.
      units: image slots a row, pooled over the rows of a group, in the backbone's unit (tiles or patches).
    """

    tokens: int
    units: int


class Buckets(NamedTuple):
    """The finite list that a bucket is picked from: every pair of a length and a number of image slots.

    Attributes:
      tokens, units: both ascending.
      unit: what a unit is called in messages.
    """

    tokens: tuple[int, ...]
    units: tuple[int, ...]
    unit: str = "image tiles"

    def fit(self, tokens: Int[np.ndarray, " N"], units: Int[np.ndarray, " N"], groups: int = 1) -> Bucket:
        """The smallest bucket that N rows fit, laid into `groups` equal groups in order.

        Raises:
          BadInputError: the rows have more pictures than the largest; rows that are too long are taken as cut to the
            largest length (`Processor` cuts the text's end).
        """
        pooled = -(-np.max(np.sum(np.reshape(units, (groups, -1)), 1)) // (len(units) // groups))
        if pooled > self.units[-1]:
            raise BadInputError(
                f"{pooled} {self.unit} a row, more than the largest of data.image_buckets {self.units}: "
                "add a larger one, lower the resolution, or set data.on_large_images shrink"
            )
        longest = min(np.max(tokens), self.tokens[-1])
        return Bucket(_at_least(self.tokens, longest), _at_least(self.units, pooled))


def _at_least(ladder: Sequence[int], value: int) -> int:
    return next(step for step in ladder if step >= value)
