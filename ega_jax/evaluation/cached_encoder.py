"""An encoder that asks a cache first: what one evaluation, search or mining run has embedded, the next has for free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ega_jax.evaluation.content import content_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float32

    from ega_jax.data.records import Side
    from ega_jax.evaluation.encoding import Encode
    from ega_jax.evaluation.vector_cache import VectorCache

ITEMS_PER_SHARD = 1024
"""Items embedded between two writes, what a kill costs at most: some seconds of a 7B model on eight devices."""


class CachedEncoder:
    """Maps sides to vectors; equal contents are embedded once, and never again while the cache lives.

    An instance is an `Encode`: `evaluate(CachedEncoder(...), subsets)`.

    Attributes:
      reused: distinct items that came from the cache, so far.
      encoded: those that were embedded.
    """

    def __init__(
        self,
        encode: Encode,
        width: int,
        cache: VectorCache | None = None,
        *,
        leads: bool = True,
        share: Callable[[np.ndarray], np.ndarray] = lambda array: array,
        items_per_shard: int = ITEMS_PER_SHARD,
        progress: Callable[[int], object] = lambda items: None,
    ) -> None:
        """
        Args:
          encode: embeds n sides as (n, D) float32 unit rows; of several processes all call it with the same sides.
          width: D.
          cache: where vectors are kept; None keeps none.
          leads: whether this is the first process. It alone reads and writes the cache and tells the others what is
            missing, so that they need no common disk and never disagree.
          share: gives every process the first one's array, e.g. `training.distributed.from_first`.
          items_per_shard: items embedded at a time, and kept before the next are.
          progress: called with the number of distinct items done since the last call.
        """
        self._encode, self._width, self._cache = encode, width, cache if leads else None
        self._leads, self._share = leads, share
        self._items_per_shard, self._progress = items_per_shard, progress
        self.reused = self.encoded = 0

    def __call__(self, sides: Sequence[Side]) -> Float32[np.ndarray, "n D"]:
        """Embeds n sides; (n, D) float32 unit rows in their order.

        Raises:
          BadInputError: a picture cannot be read; names it.
        """
        rows = np.zeros((len(sides), 32), np.uint8)
        if self._leads:
            rows = np.frombuffer(b"".join(content_keys(sides)), np.uint8).reshape(len(sides), 32)
        keys = [row.tobytes() for row in self._share(rows)]
        places: dict[bytes, int] = {}
        distinct: list[Side] = []
        for side, key in zip(sides, keys, strict=True):
            if key not in places:
                places[key] = len(distinct)
                distinct.append(side)
        vectors = self._embed(distinct, list(places))
        return vectors[[places[key] for key in keys]]

    def _embed(self, sides: Sequence[Side], keys: Sequence[bytes]) -> Float32[np.ndarray, "n D"]:
        found, vectors = np.zeros(len(keys), np.uint8), np.zeros((len(keys), self._width), np.float32)
        if self._cache is not None:
            found, vectors = self._cache.get(keys)
        found = self._share(found.astype(np.uint8)).astype(bool)
        if found.any():
            vectors = np.array(self._share(vectors))
            self.reused += int(found.sum())
            self._progress(int(found.sum()))
        missing = np.flatnonzero(~found)
        for start in range(0, len(missing), self._items_per_shard):
            chunk = missing[start : start + self._items_per_shard]
            rows = np.asarray(self._encode([sides[place] for place in chunk]), np.float32)
            if rows.shape != (len(chunk), self._width):
                raise ValueError(f"encode returned shape {rows.shape}, expected ({len(chunk)}, {self._width})")
            vectors[chunk] = rows
            if self._cache is not None:
                # What is not finite is for the caller to refuse, and must not be found again once it is mended.
                good = np.isfinite(rows).all(axis=1)
                self._cache.add([keys[place] for place in chunk[good]], rows[good])
            self.encoded += len(chunk)
            self._progress(len(chunk))
        return vectors
