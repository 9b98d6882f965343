"""Every distinct item of an evaluation, encoded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ega_jax.data.images import identity
from ega_jax.data.records import described
from ega_jax.errors import NonFiniteEmbeddingError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from jaxtyping import Float32, Int64

    from ega_jax.data.records import EvalSubset, Side

    Encode = Callable[[Sequence[Side]], Float32[np.ndarray, "n D"]]

ITEMS_PER_CALL = 4096
"""Sides handed to one `encode` call: enough for an encoder to sort by length, few enough to show progress."""


class EncodedItems:
    """The distinct sides of some subsets, queries and targets alike, and the embedding of each.

    Attributes:
      embeddings: (n, D) float32 unit rows, in the order in which the sides first appear.
    """

    def __init__(
        self,
        encode: Encode,
        subsets: Sequence[EvalSubset],
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Encodes; see `ega_jax.evaluation.evaluate` for the arguments and errors."""
        self._ids: dict[Hashable, int] = {}
        sides: list[Side] = []
        places: list[str] = []
        for subset in subsets:
            for kind, members in (("query", subset.queries), ("target", subset.targets)):
                for row, side in enumerate(members):
                    if self._ids.setdefault(item_key(side), len(sides)) == len(sides):
                        sides.append(side)
                        places.append(f"subset {subset.info.name!r}, {kind} {row}")
        self.embeddings = _encode_all(encode, sides, places, progress or (lambda done, total: None))

    def ids(self, sides: Iterable[Side]) -> Int64[np.ndarray, " n"]:
        """Returns the row of `embeddings` of each side; equal ids mean the same item."""
        return np.fromiter((self._ids[item_key(side)] for side in sides), np.int64)


def item_key(side: Side) -> Hashable:
    """Returns what makes sides the same item: text and images; a picture in memory is only itself."""
    return side.text, tuple(map(identity, side.images))


def _encode_all(
    encode: Encode, sides: list[Side], places: list[str], progress: Callable[[int, int], object]
) -> Float32[np.ndarray, "n D"]:
    blocks: list[np.ndarray] = []
    progress(0, len(sides))
    for start in range(0, len(sides), ITEMS_PER_CALL):
        chunk = slice(start, start + ITEMS_PER_CALL)
        rows = np.asarray(encode(sides[chunk]), np.float32)
        count = len(sides[chunk])
        if rows.ndim != 2 or len(rows) != count or (blocks and rows.shape[1] != blocks[0].shape[1]):
            width = blocks[0].shape[1] if blocks else "D"
            raise ValueError(f"encode returned shape {rows.shape} for {count} sides; expected ({count}, {width})")
        _check_rows(rows, sides[chunk], places[chunk])
        blocks.append(rows)
        progress(start + count, len(sides))
    return np.concatenate(blocks)


def _check_rows(rows: Float32[np.ndarray, "n D"], sides: Sequence[Side], places: Sequence[str]) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise NonFiniteEmbeddingError(
            f"{places[first]} ({described(sides[first])}): the embedding is not finite, nor are "
            f"{np.count_nonzero(~finite) - 1} of the {len(rows) - 1} others encoded with it; "
            "the weights may have diverged, or the compute dtype may overflow"
        )
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    # float32 unit rows are off by about 1e-7; those normalised in bfloat16, of 8 bits, by less than 1e-2.
    wrong = np.abs(norms - 1.0) > 1e-2
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{places[first]} ({described(sides[first])}): encode returned a row of norm {norms[first]:.4g}; "
            "rows must be L2-normalised"
        )
