"""Batches: what a step trains on, as arrays, prepared ahead of it by grain.

Element `step` of `TrainingBatches` is a pure function of the data, the seed and the step. So the state of the iterator
is one number, the restart after a kill is exact, and threads or processes change nothing but the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import grain
import numpy as np

from ega_jax.data.buckets import Bucket, Buckets
from ega_jax.data.images import ImageError
from ega_jax.data.index import SideIndex, SubsetIndex, index_subset
from ega_jax.data.mixture import Mixture
from ega_jax.data.processor import Example, Processor
from ega_jax.data.records import BadRecordError, TrainRecord
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32

    from ega_jax.data.mmeb import TrainSubset

Batch = dict[str, Any]
"""`queries` and `targets`: a backbone's inputs, in groups; `query_ids`, `target_ids`, `positives`, `target_mask`: as
`ega_loss` takes them, for the whole global batch."""


class Plan(NamedTuple):
    """The shapes of one step and the labels of its rows, which all hosts agree on.

    Attributes:
      query_bucket, target_bucket: the padded shapes.
      negatives: slots for explicit negatives that every row has.
      query_ids: (N,) and target_ids: (M,), M = N (1 + negatives): equal numbers are not negatives of each other.
      positives: (N,) the target row that holds each query's positive.
      target_mask: (M,) False on slots that hold nothing.
    """

    query_bucket: Bucket
    target_bucket: Bucket
    negatives: int
    query_ids: Int32[np.ndarray, " N"]
    target_ids: Int32[np.ndarray, " M"]
    positives: Int32[np.ndarray, " N"]
    target_mask: Bool[np.ndarray, " M"]


class TrainingBatches:
    """A random-access source of batches for grain: `len` steps, `[step]` the batch of one."""

    def __init__(
        self,
        subsets: Sequence[TrainSubset],
        processor: Processor,
        buckets: Buckets,
        *,
        steps: int,
        batch_size: int,
        sub_batch_size: int,
        seed: int,
        mixing_exponent: float = 0.5,
        weights: Sequence[float] | None = None,
        groups: int = 1,
        process_index: int = 0,
        process_count: int = 1,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """
        Args:
          subsets: what to draw from.
          processor: the backbone's host side.
          buckets: the shapes that may be compiled.
          steps: length of the run.
          batch_size, sub_batch_size, seed, mixing_exponent, weights: see `Mixture`.
          groups: parts of the global batch that are encoded by themselves; divides `batch_size`.
          process_index, process_count: this process prepares the `process_index`-th of `process_count` equal,
            contiguous parts of the groups.
          progress: called with numbers of rows as they are indexed.

        Raises:
          ValueError: the sizes do not divide.
          BadRecordError: an image's header cannot be read.
        """
        if batch_size % groups or groups % process_count:
            raise ValueError(f"batch size {batch_size}, groups {groups} and processes {process_count} do not divide")
        self._subsets, self._processor, self._buckets = subsets, processor, buckets
        self._steps, self._groups = steps, groups
        self._index = [index_subset(subset, processor, progress) for subset in subsets]
        self._mixture = Mixture(
            [len(subset) for subset in subsets],
            [self._lane(index) for index in self._index],
            batch_size=batch_size,
            sub_batch_size=sub_batch_size,
            seed=seed,
            exponent=mixing_exponent,
            weights=weights,
        )
        here = groups // process_count
        self._local_groups = range(process_index * here, (process_index + 1) * here)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        plan = self.plan(step)
        rows = self._mixture(step)
        each = len(rows.row) // self._groups
        queries: list[Example | None] = []
        targets: list[Example | None] = []
        for group in self._local_groups:
            negatives: list[Example | None] = []
            for place in range(group * each, (group + 1) * each):
                subset, row = int(rows.subset[place]), int(rows.row[place])
                record = self._subsets[subset][row]
                query, positive, *others = self._examples(subset, row, record)
                queries.append(query)
                targets.append(positive)
                negatives += others + [None] * (plan.negatives - len(others))
            targets += negatives
        local = len(self._local_groups)
        return {
            "queries": self._processor.collate(queries, plan.query_bucket, local),
            "targets": self._processor.collate(targets, plan.target_bucket, local),
            "query_ids": plan.query_ids,
            "target_ids": plan.target_ids,
            "positives": plan.positives,
            "target_mask": plan.target_mask,
        }

    def plan(self, step: int) -> Plan:
        """Shapes and labels of a step, from the index alone."""
        rows = self._mixture(step)
        indices = [self._index[subset] for subset in rows.subset]
        negatives = max(self._index[subset].most_negatives for subset in set(rows.subset.tolist()))
        queries = _rows((index.queries, row) for index, row in zip(indices, rows.row, strict=True))
        positives = _rows((index.positives, row) for index, row in zip(indices, rows.row, strict=True))
        others = [_negatives(index, int(row), negatives) for index, row in zip(indices, rows.row, strict=True)]
        columns = [positives, *(_stack([row[k] for row in others]) for k in range(negatives))]

        def by_group(parts: Sequence[np.ndarray]) -> np.ndarray:
            """(N,) columns -> (M,) in target order: in each group its positives, then row by row its negatives."""
            grouped = [part.reshape(self._groups, -1) for part in parts]
            rest = np.stack(grouped[1:], 2).reshape(self._groups, -1) if grouped[1:] else grouped[0][:, :0]
            return np.concatenate([grouped[0], rest], 1).reshape(-1)

        items = by_group([column.item for column in columns])
        each = len(rows.row) // self._groups
        starts = np.repeat(np.arange(self._groups) * each * (1 + negatives), each)
        target_rows = (starts + np.tile(np.arange(each), self._groups)).astype(np.int32)
        query_ids, target_ids = _same_item_ids(queries.item, items, target_rows)
        return Plan(
            self._buckets.fit(queries.tokens, queries.units, self._groups),
            self._buckets.fit(
                by_group([column.tokens for column in columns]),
                by_group([column.units for column in columns]),
                self._groups,
            ),
            negatives,
            query_ids,
            target_ids,
            target_rows,
            items != _ABSENT,
        )

    def _lane(self, index: SubsetIndex) -> tuple[Bucket, Bucket, int]:
        targets = [side for side in (index.positives, index.negatives) if len(side.tokens)]
        return (
            self._buckets.fit(index.queries.tokens.max(keepdims=True), index.queries.units.max(keepdims=True)),
            self._buckets.fit(
                np.max([side.tokens.max() for side in targets], keepdims=True),
                np.max([side.units.max() for side in targets], keepdims=True),
            ),
            index.most_negatives,
        )

    def _examples(self, subset: int, row: int, record: TrainRecord) -> list[Example]:
        fields = ["qry_image_path", "pos_image_path"] + ["neg_image_path"] * len(record.negatives)
        examples = []
        for field, side in zip(fields, [record.query, record.positive, *record.negatives], strict=True):
            try:
                examples.append(self._processor.prepare(side))
            except ImageError as error:
                raise BadRecordError(*self._subsets[subset].location(row), field, str(error)) from error
        return examples


def prefetched(batches: TrainingBatches, *, threads: int, prefetch: int) -> grain.IterDataset:
    """The batches in order, prepared ahead on threads."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return grain.MapDataset.source(batches).to_iter_dataset(options)


_ABSENT = -1
_NOTHING = SideIndex(*(np.asarray(value) for value in (1, 0, _ABSENT)))


def _rows(places: Any) -> SideIndex:
    return _stack([SideIndex(*(array[row] for array in side)) for side, row in places])


def _stack(rows: Sequence[SideIndex]) -> SideIndex:
    return SideIndex(*(np.asarray(values) for values in zip(*rows, strict=True)))


def _negatives(index: SubsetIndex, row: int, slots: int) -> list[SideIndex]:
    first, last = index.first_negative[row : row + 2]
    found = [SideIndex(*(array[k] for array in index.negatives)) for k in range(first, last)]
    return found + [_NOTHING] * (slots - len(found))


def _same_item_ids(queries: np.ndarray, targets: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that a query shares with every target that is right for it.

    Two rows with one positive have a duplicate; two rows with one query have two right answers. Both are found as
    connected components of the graph that joins each query's item to its positive's.
    """
    parent: dict[tuple[str, int], tuple[str, int]] = {}

    def root(node: tuple[str, int]) -> tuple[str, int]:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for query, positive in zip(queries.tolist(), targets[positives].tolist(), strict=True):
        parent[root(("query", query))] = root(("target", positive))
    numbers: dict[tuple[str, int], int] = {}

    def number(kind: str, item: int) -> int:
        return numbers.setdefault(root((kind, item)), len(numbers))

    query_ids = np.asarray([number("query", item) for item in queries.tolist()], np.int32)
    target_ids = np.asarray([number("target", item) for item in targets.tolist()], np.int32)
    return query_ids, target_ids


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
