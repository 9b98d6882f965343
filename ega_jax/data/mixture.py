"""Which rows a step trains on: a pure function of (seed, step).

The same rows come out on every host, at any worker count, and after any restart, because nothing is consumed: the batch
of step 1,000 can be asked for without the 999 before it.

Rows come in homogeneous sub-batches (one subset each; VLM2Vec-V2, arXiv 2507.04590, gains 2.5 points by it), so that
in-batch negatives are hard. All sub-batches of a step share a *lane*: subsets whose rows have the same shape (text to
image, image to text, ...), so that a step pads little. Three decks are dealt, one inside another: lanes to steps,
subsets to sub-batches, rows to places.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int


NO_ROW = -1
"""The number of the row in a place of a batch that holds none."""


class Rows(NamedTuple):
    """The rows of one global batch, in batch order.

    Attributes:
      subset: (N,) the number of each row's subset.
      row: (N,) its number within that subset; `NO_ROW` where a short batch ended before.
      visit: (N,) how often the row was dealt before.
    """

    subset: Int[np.ndarray, " N"]
    row: Int[np.ndarray, " N"]
    visit: Int[np.ndarray, " N"]


class Mixture:
    """Deals subsets and rows to steps."""

    def __init__(
        self,
        sizes: Sequence[int],
        lanes: Sequence[Hashable],
        *,
        batch_size: int,
        sub_batch_size: int,
        seed: int,
        exponent: float = 0.5,
        weights: Sequence[float] | None = None,
    ) -> None:
        """
        Args:
          sizes: rows of each subset, all positive.
          lanes: the lane of each subset; subsets of one lane may share a step.
          batch_size: rows of a global batch, N.
          sub_batch_size: rows that come from one subset; divides `batch_size`.
          seed: any non-negative integer.
          exponent: a subset is drawn in proportion to `weight * size ** exponent`: 1 is by size, 0 is uniform over
            subsets.
          weights: one a subset, all positive; 1 by default.

        Raises:
          ValueError: if a size is not positive or `sub_batch_size` does not divide `batch_size`.
        """
        if not sizes or min(sizes) < 1:
            raise ValueError("every subset must have at least one row")
        if batch_size % sub_batch_size:
            raise ValueError(f"sub_batch_size {sub_batch_size} does not divide batch_size {batch_size}")
        self.sub_batch_size = sub_batch_size
        self.sub_batches = batch_size // sub_batch_size
        shares = np.asarray(sizes, np.float64) ** exponent
        if weights is not None:
            shares *= np.asarray(weights, np.float64)
        counts = np.round(16 * shares / shares.min()).astype(int)  # the rarest is dealt 16 times a pass: shares to 3 %
        counts //= np.gcd.reduce(counts)
        names = list(dict.fromkeys(lanes))
        members = [[s for s, lane in enumerate(lanes) if lane == name] for name in names]
        self._members = members
        self._lanes = Deck([int(counts[m].sum()) for m in members], (seed, 0))
        self._subsets = [Deck([int(counts[s]) for s in m], (seed, 1, i)) for i, m in enumerate(members)]
        self._rows = [Deck([1] * size, (seed, 2, s)) for s, size in enumerate(sizes)]

    def __call__(self, step: int) -> Rows:
        """The rows of the global batch of `step`, counted from 0."""
        lane, lane_turn = self._lanes.deal(step)
        subsets, rows, visits = [], [], []
        for place in range(self.sub_batches):
            member, subset_turn = self._subsets[lane].deal(lane_turn * self.sub_batches + place)
            subset = self._members[lane][member]
            first = subset_turn * self.sub_batch_size
            subsets += [subset] * self.sub_batch_size
            for turn in range(first, first + self.sub_batch_size):
                row, visit = self._rows[subset].deal(turn)
                rows.append(row)
                visits.append(visit)
        return Rows(np.asarray(subsets), np.asarray(rows), np.asarray(visits))


def sample_rows(size: int, limit: int, seed: int, name: str) -> Int[np.ndarray, " n"]:
    """At most `limit` of the rows 0 ... size - 1, ascending: a random choice that depends on nothing but the arguments.

    Published recipes take the first rows, which in some subsets are all of a kind.
    """
    if size <= limit:
        return np.arange(size)
    return np.sort(shuffled(size, (seed, 3, *name.encode()))[:limit])


def shuffled(size: int, seed: tuple[int, ...]) -> Int[np.ndarray, " size"]:
    """The numbers 0 ... size - 1 in an order that depends on nothing but the arguments."""
    # Raw draws and a stable sort: numpy promises those for ever, and not the stream behind `permutation`.
    return np.argsort(np.random.PCG64(np.random.SeedSequence(seed)).random_raw(size), kind="stable")


class Deck:
    """An endless shuffled sequence in which every pass deals item i exactly `counts[i]` times."""

    def __init__(self, counts: Sequence[int], seed: tuple[int, ...]) -> None:
        self._counts = np.asarray(counts)
        self._items = np.repeat(np.arange(len(counts)), self._counts)
        self._seed = seed
        self._shuffled = functools.lru_cache(maxsize=2)(self._shuffle)

    def deal(self, turn: int) -> tuple[int, int]:
        """The item dealt at `turn`, and how often that item had been dealt before."""
        number, place = divmod(turn, len(self._items))
        items, earlier = self._shuffled(number)
        item = int(items[place])
        return item, int(number * self._counts[item] + earlier[place])

    def _shuffle(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        items = self._items[shuffled(len(self._items), (*self._seed, number))]
        by_item = np.argsort(items, kind="stable")
        starts = np.repeat(np.cumsum(self._counts) - self._counts, self._counts)
        earlier = np.empty_like(items)
        earlier[by_item] = np.arange(len(items)) - starts
        return items, earlier
