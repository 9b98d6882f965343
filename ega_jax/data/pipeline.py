"""Batches: what a step trains on, as arrays, prepared ahead of it by grain.

Element `step` of `TrainingBatches` is a pure function of the data, the seed and the step. So the step is all that a
checkpoint needs to know of the data, the restart after a kill is exact, and threads or processes change nothing but the
speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grain
import numpy as np

from ega_jax.data.buckets import Buckets
from ega_jax.data.epochs import Epochs
from ega_jax.data.images import ImageError
from ega_jax.data.index import SubsetIndex
from ega_jax.data.index_files import indexed
from ega_jax.data.mixture import NO_ROW, Mixture, Rows
from ega_jax.data.plan import NOTHING, Plan, make_plan
from ega_jax.data.processor import Example, Processor
from ega_jax.data.programs import Program, cheapest, choose_programs
from ega_jax.data.records import BadRecordError, Side, TrainRows
from ega_jax.data.room import require_room
from ega_jax.errors import BadInputError

Batch = dict[str, Any]
"""`queries` and `targets`: a backbone's inputs, in groups; `query_ids`, `target_ids`, `positives`, `target_mask`: as
`ega_loss` takes them, for the whole global batch; `weights` too where training is counted in epochs."""


T = TypeVar("T")


class BatchSides(NamedTuple):
    """What a step trains on, before it becomes arrays.

    Attributes:
      subsets: names of the subsets that the N rows are of.
      queries: N sides, None in places without a row.
      targets: M sides in the order of the plan's `target_ids`, None in slots that hold nothing.
      plan: shapes and labels.
    """

    subsets: list[str]
    queries: list[Side | None]
    targets: list[Side | None]
    plan: Plan


class TrainingBatches:
    """A random-access source of batches for grain: `len` steps, `[step]` the batch of one."""

    def __init__(
        self,
        subsets: Sequence[TrainRows],
        processor: Processor,
        buckets: Buckets,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        batch_size: int,
        sub_batch_size: int,
        seed: int,
        mixing_exponent: float = 0.5,
        weights: Sequence[float] | None = None,
        negatives_per_query: int | None = None,
        max_programs: int | None = None,
        groups: int = 1,
        local_groups: Sequence[int] | None = None,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """
        Args:
          subsets: what to draw from.
          processor: the backbone's host side.
          buckets: the shapes that may be compiled.
          steps: length of the run, or
          epochs: its length in visits of every row (`Epochs`); `mixing_exponent` and `weights` then mean nothing.
          batch_size, sub_batch_size, seed, mixing_exponent, weights: see `Mixture`.
          negatives_per_query: see `make_plan`.
          max_programs: most shapes that steps may have; None lets each step have the smallest buckets.
          groups: parts of the global batch that are encoded by themselves; divides `batch_size`.
          local_groups: those of the groups that this process prepares, ascending; None prepares all.
          progress: called with numbers of rows as they are indexed.

        Raises:
          ValueError: the sizes do not divide, or not just one of `steps` and `epochs` is given.
          BadRecordError: an image's header cannot be read, or pictures of a row do not fit the largest buckets.
        """
        if (steps is None) == (epochs is None):
            raise ValueError(f"the length of a run is either steps or epochs, got {steps} and {epochs}")
        if batch_size % groups:
            raise ValueError(f"batch size {batch_size} does not divide into {groups} groups")
        self._subsets, self._processor, self._buckets = subsets, processor, buckets
        self._groups, self._negatives_per_query = groups, negatives_per_query
        self._index = [indexed(subset, processor, progress) for subset in subsets]
        for subset, index in zip(subsets, self._index, strict=True):
            require_room(subset, index, processor, buckets, negatives=negatives_per_query != 0)
        lanes = [self._lane(index) for index in self._index]
        sizes = [len(subset) for subset in subsets]
        sub_batches = {"batch_size": batch_size, "sub_batch_size": sub_batch_size, "seed": seed}
        self._rows: Mixture | Epochs
        if steps is not None:
            self._rows = Mixture(sizes, lanes, **sub_batches, exponent=mixing_exponent, weights=weights)
            self._steps = steps
        elif epochs is not None:
            self._rows = Epochs(sizes, lanes, **sub_batches)
            self._steps = epochs * self._rows.steps
        self._weighted = epochs is not None
        self._local_groups = range(groups) if local_groups is None else local_groups
        self._programs: tuple[Program, ...] | None = None
        sampled = np.unique(np.linspace(0, self._steps - 1, _SAMPLED_STEPS).astype(int)).tolist()
        if max_programs is not None:
            needed = [self.plan(step).program for step in sampled]
            self._programs = choose_programs(needed, list(dict.fromkeys(lanes)), max_programs)
        self._padding = _padding([self.plan(step) for step in sampled])

    @property
    def padding(self) -> str:
        """How much of what is computed is padding, by the plans of some steps, for the terminal."""
        tokens, units = self._padding
        shapes = "" if self._programs is None else f"; {len(self._programs)} programs at most"
        return f"padding: {tokens:.0%} of token places, {units:.0%} of image slots{shapes}"

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        rows = self._rows(step)
        plan = self._plan(rows)
        queries, targets = self._taken(rows, plan, self._local_groups, self._examples)
        local = len(self._local_groups)
        return {
            "queries": self._processor.collate(queries, plan.query_bucket, local),
            "targets": self._processor.collate(targets, plan.target_bucket, local),
            "query_ids": plan.query_ids,
            "target_ids": plan.target_ids,
            "positives": plan.positives,
            "target_mask": plan.target_mask,
            **({"weights": plan.weights} if self._weighted else {}),
        }

    def rows_of(self, step: int) -> list[tuple[Path, int]]:
        """Where the rows of a step's global batch stand: files, and numbers of rows in them from 0."""
        rows = self._rows(step)
        return [
            self._subsets[subset].location(int(row))
            for subset, row in zip(rows.subset, rows.row, strict=True)
            if row != NO_ROW
        ]

    def sides_of(self, step: int) -> BatchSides:
        """What a step trains on, to be looked at: the sides of its global batch."""
        rows = self._rows(step)
        plan = self._plan(rows)
        queries, targets = self._taken(rows, plan, range(self._groups), self._sides)
        return BatchSides([self._subsets[subset].info.name for subset in rows.subset], queries, targets, plan)

    def plan(self, step: int) -> Plan:
        """Shapes and labels of a step, from the index alone."""
        return self._plan(self._rows(step))

    def _plan(self, rows: Rows) -> Plan:
        plan = make_plan(
            rows,
            self._index,
            self._buckets,
            groups=self._groups,
            negatives_per_query=self._negatives_per_query,
        )
        if self._programs is None:
            return plan
        program = cheapest(self._programs, plan.program)
        return plan._replace(query_bucket=program.query, target_bucket=program.target)

    def _lane(self, index: SubsetIndex) -> Program:
        targets = [index.positives, *([index.negatives] if self._slots(index) else [])]
        return Program(
            self._buckets.fit(index.queries.tokens.max(keepdims=True), index.queries.units.max(keepdims=True)),
            self._buckets.fit(
                np.max([side.tokens.max() for side in targets], keepdims=True),
                np.max([side.units.max() for side in targets], keepdims=True),
            ),
            self._slots(index),
        )

    def _slots(self, index: SubsetIndex) -> int:
        most = index.most_negatives
        return most if self._negatives_per_query is None else min(most, self._negatives_per_query)

    def _taken(
        self, rows: Rows, plan: Plan, groups: Sequence[int], take: Callable[[int, int, int, Sequence[int]], list[T]]
    ) -> tuple[list[T | None], list[T | None]]:
        """Queries and targets of some groups in the order of the arrays; None in places that hold nothing.

        Args:
          rows, plan: of the step.
          groups: which.
          take: (subset, row, positive, negatives) -> what the row's query, positive and negatives are taken as.
        """
        each = len(rows.row) // self._groups
        queries: list[T | None] = []
        targets: list[T | None] = []
        for group in groups:
            negatives: list[T | None] = []
            for place in range(group * each, (group + 1) * each):
                if rows.row[place] == NO_ROW:
                    queries.append(None)
                    targets.append(None)
                    negatives += [None] * plan.negatives
                    continue
                drawn = plan.draw.negatives[place]
                query, positive, *others = take(
                    int(rows.subset[place]), int(rows.row[place]), plan.draw.positive[place], drawn[drawn != NOTHING]
                )
                queries.append(query)
                targets.append(positive)
                negatives += others + [None] * (plan.negatives - len(others))
            targets += negatives
        return queries, targets

    def _sides(self, subset: int, row: int, positive: int, negatives: Sequence[int]) -> list[Side]:
        record = self._subsets[subset][row]
        return [record.query, record.positives[positive], *(record.negatives[number] for number in negatives)]

    def _examples(self, subset: int, row: int, positive: int, negatives: Sequence[int]) -> list[Example]:
        fields = ["qry_image_path", "pos_image_path", *["neg_image_path"] * len(negatives)]
        examples = []
        for field, side in zip(fields, self._sides(subset, row, positive, negatives), strict=True):
            try:
                examples.append(self._processor.prepare(side))
            except ImageError as error:
                raise BadRecordError(*self._subsets[subset].location(row), field, str(error)) from error
        return examples


_SAMPLED_STEPS = 64


def _padding(plans: Sequence[Plan]) -> tuple[float, float]:
    """Shares of token places and of image slots that hold nothing."""
    used, places = np.zeros(2), np.zeros(2)
    for plan in plans:
        for bucket, side in ((plan.query_bucket, plan.queries), (plan.target_bucket, plan.targets)):
            real = side.item != NOTHING
            used += [np.minimum(side.tokens, bucket.tokens)[real].sum(), side.units[real].sum()]
            places += len(real) * np.asarray(bucket)
    return tuple((1 - used / np.maximum(places, 1)).tolist()) if places[1] else (float(1 - used[0] / places[0]), 0.0)


def prefetched(batches: TrainingBatches, *, start: int = 0, threads: int, prefetch: int) -> grain.DatasetIterator:
    """The batches from step `start` on, prepared ahead on threads. To be closed."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return iter(grain.MapDataset.source(batches)[start:].to_iter_dataset(options))


def global_groups(devices: int, batch_size: int, chunk_size: int | None) -> int:
    """Into how many groups a global batch is cut: one a device, or as many as chunks of `chunk_size` rows need.

    Raises:
      BadInputError: the batch or a device's share does not divide.
    """
    if batch_size % devices:
        raise BadInputError(f"data.batch_size {batch_size} does not divide over {devices} devices")
    share = batch_size // devices
    if chunk_size is not None and share % chunk_size:
        raise BadInputError(f"data.chunk_size {chunk_size} does not divide a device's {share} rows")
    return devices * (1 if chunk_size is None else share // chunk_size)
