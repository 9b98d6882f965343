"""Which rows a step trains on where training is counted in epochs: every row exactly once in each.

As `Mixture`, a pure function of (seed, step), with homogeneous sub-batches and steps that keep to one lane. But epochs
end: the last sub-batch of each subset is short, and so is the last step of each lane. Places that are left over hold
nothing, never rows that were seen already. The order is drawn anew in every epoch.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence

import numpy as np

from ega_jax.data.mixture import NO_ROW, Rows, shuffled


class Epochs:
    """Deals every row once an epoch."""

    def __init__(
        self, sizes: Sequence[int], lanes: Sequence[Hashable], *, batch_size: int, sub_batch_size: int, seed: int
    ) -> None:
        """
        Args:
          sizes, lanes, batch_size, sub_batch_size, seed: see `Mixture`.

        Raises:
          ValueError: if a size is not positive or `sub_batch_size` does not divide `batch_size`.
        """
        if not sizes or min(sizes) < 1:
            raise ValueError("every subset must have at least one row")
        if batch_size % sub_batch_size:
            raise ValueError(f"sub_batch_size {sub_batch_size} does not divide batch_size {batch_size}")
        self._sizes, self._batch_size, self._sub_batch_size, self._seed = sizes, batch_size, sub_batch_size, seed
        names = list(dict.fromkeys(lanes))
        self._members = [[s for s, lane in enumerate(lanes) if lane == name] for name in names]
        self._parts = [-(-size // sub_batch_size) for size in sizes]  # sub-batches of each subset
        each = batch_size // sub_batch_size
        self._lane_steps = [-(-sum(self._parts[s] for s in members) // each) for members in self._members]
        self._order = functools.lru_cache(maxsize=2)(self._shuffled_steps)
        self._dealt = functools.lru_cache(maxsize=2 * len(names))(self._shuffled_parts)
        self._rows = functools.lru_cache(maxsize=2 * len(sizes))(self._shuffled_rows)

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return sum(self._lane_steps)

    def __call__(self, step: int) -> Rows:
        """The rows of the global batch of `step`, counted from 0; `NO_ROW` on places that hold nothing."""
        epoch, place = divmod(step, self.steps)
        lane, turn = self._order(epoch)[place]
        each = self._batch_size // self._sub_batch_size
        subset = np.full(self._batch_size, self._members[lane][0])
        row = np.full(self._batch_size, NO_ROW)
        for number, (its, part) in enumerate(self._dealt(epoch, lane)[turn * each : (turn + 1) * each]):
            rows = self._rows(epoch, its)[part * self._sub_batch_size : (part + 1) * self._sub_batch_size]
            first = number * self._sub_batch_size
            subset[first : first + self._sub_batch_size] = its
            row[first : first + len(rows)] = rows
        return Rows(subset, row, np.full(self._batch_size, epoch))

    def _shuffled_steps(self, epoch: int) -> list[tuple[int, int]]:
        """(lane, number of the step within it) of each step of an epoch."""
        steps = [(lane, turn) for lane, turns in enumerate(self._lane_steps) for turn in range(turns)]
        return [steps[place] for place in shuffled(len(steps), (self._seed, 4, epoch))]

    def _shuffled_parts(self, epoch: int, lane: int) -> list[tuple[int, int]]:
        """(subset, number of the sub-batch within it) of each sub-batch of a lane."""
        parts = [(subset, part) for subset in self._members[lane] for part in range(self._parts[subset])]
        return [parts[place] for place in shuffled(len(parts), (self._seed, 5, lane, epoch))]

    def _shuffled_rows(self, epoch: int, subset: int) -> np.ndarray:
        return shuffled(self._sizes[subset], (self._seed, 6, subset, epoch))
