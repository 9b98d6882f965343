"""The shapes of a step and the labels of its rows, from the index alone: what all hosts must agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ega_jax.data.buckets import Bucket, Buckets
from ega_jax.data.index import SideIndex, SubsetIndex
from ega_jax.data.mixture import NO_ROW
from ega_jax.data.programs import Program

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int, Int32

    from ega_jax.data.mixture import Rows

NOTHING = -1
"""The place, and the item, of a slot that holds nothing."""


class Draw(NamedTuple):
    """What is taken of each of N rows at this visit of it, as numbers within the row.

    Attributes:
      positive: (N,) which of its positives; `NOTHING` in places without a row.
      negatives: (N, K) which of its explicit negatives, `NOTHING` in slots that stay empty.
    """

    positive: Int[np.ndarray, " N"]
    negatives: Int[np.ndarray, "N K"]


class Plan(NamedTuple):
    """The shapes of one step and the labels of its rows.

    Attributes:
      query_bucket, target_bucket: the padded shapes.
      negatives: slots for explicit negatives that every row has.
      query_ids: (N,) and target_ids: (M,), M = N (1 + negatives): equal numbers are not negatives of each other.
      positives: (N,) the target row that holds each query's positive.
      target_mask: (M,) False on slots that hold nothing.
      weights: (N,) 1, and 0 in places without a row.
      draw: what is taken of each row.
      queries, targets: (N,) and (M,) what the rows of the batch take.
    """

    query_bucket: Bucket
    target_bucket: Bucket
    negatives: int
    query_ids: Int32[np.ndarray, " N"]
    target_ids: Int32[np.ndarray, " M"]
    positives: Int32[np.ndarray, " N"]
    target_mask: Bool[np.ndarray, " M"]
    weights: Float32[np.ndarray, " N"]
    draw: Draw
    queries: SideIndex
    targets: SideIndex

    @property
    def program(self) -> Program:
        """The shape of the step."""
        return Program(self.query_bucket, self.target_bucket, self.negatives)


def make_plan(
    rows: Rows, index: Sequence[SubsetIndex], buckets: Buckets, *, groups: int, negatives_per_query: int | None
) -> Plan:
    """Plans a step.

    The visits of a row take its positives in turn, and its negatives in turn, `negatives_per_query` at a time.

    Args:
      rows: of the global batch.
      index: of each subset.
      buckets: the shapes that may be compiled.
      groups: parts of the global batch that are encoded by themselves.
      negatives_per_query: most slots for explicit negatives of a row; None has as many as the rows need.
    """
    count = len(rows.row)
    slots = max(index[subset].most_negatives for subset in np.unique(rows.subset))
    slots = slots if negatives_per_query is None else min(slots, negatives_per_query)
    draw = Draw(np.full(count, NOTHING), np.full((count, slots), NOTHING))
    parts: list[tuple[np.ndarray, SideIndex, SideIndex, SideIndex]] = []
    right: list[tuple[int, int]] = []  # (query's item, item of one of its positives), of all positives
    here = rows.row != NO_ROW
    for subset in np.unique(rows.subset[here]):
        places = np.flatnonzero(here & (rows.subset == subset))
        row, visit, its = rows.row[places], rows.visit[places], index[subset]
        first, held = its.first_positive[row], np.diff(its.first_positive)[row]
        draw.positive[places] = visit % held
        first_negative, negatives = its.first_negative[row], np.diff(its.first_negative)[row]
        slot = np.arange(slots)
        taken = (visit[:, None] * slots + slot) % np.maximum(negatives, 1)[:, None]
        draw.negatives[places] = np.where(slot < negatives[:, None], taken, NOTHING)
        drawn = draw.negatives[places]
        queries = _at(its.queries, row)
        parts.append(
            (
                places,
                queries,
                _at(its.positives, first + draw.positive[places]),
                _at(its.negatives, np.where(drawn == NOTHING, NOTHING, first_negative[:, None] + drawn)),
            )
        )
        of_row = np.repeat(np.arange(len(row)), held)
        every = np.repeat(first - np.cumsum(held) + held, held) + np.arange(len(of_row))
        right += zip(queries.item[of_row].tolist(), its.positives.item[every].tolist(), strict=True)

    of, *sides = zip(*parts, strict=True)
    shapes = ((count,), (count,), (count, slots))
    queries, positives, negatives_ = (
        _laid(np.concatenate(of), its, shape) for its, shape in zip(sides, shapes, strict=True)
    )
    targets = SideIndex(
        *(_in_target_order(one, several, groups) for one, several in zip(positives, negatives_, strict=True))
    )
    each = count // groups
    starts = np.repeat(np.arange(groups) * each * (1 + slots), each)
    target_rows = (starts + np.tile(np.arange(each), groups)).astype(np.int32)
    query_ids, target_ids = _same_item_ids(queries.item, targets.item, right)
    return Plan(
        buckets.fit(queries.tokens, queries.units, groups),
        buckets.fit(targets.tokens, targets.units, groups),
        slots,
        query_ids,
        target_ids,
        target_rows,
        targets.item != NOTHING,
        here.astype(np.float32),
        draw,
        queries,
        targets,
    )


_EMPTY = (1, 0, NOTHING)
"""The `SideIndex` of a place that holds nothing: it has one token, so that its embedding is finite."""


def _at(side: SideIndex, places: np.ndarray) -> SideIndex:
    """The index of the items at these places, some of which may be `NOTHING`."""
    if not len(side.item):
        return SideIndex(*(np.full(places.shape, empty) for empty in _EMPTY))
    absent = places == NOTHING
    return SideIndex(*(np.where(absent, empty, values[places]) for values, empty in zip(side, _EMPTY, strict=True)))


def _laid(places: np.ndarray, parts: Sequence[SideIndex], shape: tuple[int, ...]) -> SideIndex:
    """The parts of a batch at their places; nothing at the others."""
    laid = SideIndex(*(np.full(shape, empty) for empty in _EMPTY))
    for values, columns in zip(laid, zip(*parts, strict=True), strict=True):
        values[places] = np.concatenate(columns)
    return laid


def _in_target_order(positives: np.ndarray, negatives: np.ndarray, groups: int) -> np.ndarray:
    """(N,) and (N, K) -> (M,): in each group its positives, then row by row its negatives."""
    return np.concatenate([positives.reshape(groups, -1), negatives.reshape(groups, -1)], 1).reshape(-1)


def _same_item_ids(
    queries: np.ndarray, targets: np.ndarray, right: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that a query shares with every target that is right for it.

    Two rows with one positive have a duplicate; two rows with one query have two right answers, and so has a row with
    two positives. All are found as connected components of the graph that joins each query's item to its positives'.
    """
    parent: dict[tuple[str, int], tuple[str, int]] = {}

    def root(node: tuple[str, int]) -> tuple[str, int]:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for query, positive in right:
        parent[root(("query", query))] = root(("target", positive))
    numbers: dict[tuple[str, int], int] = {}

    def number(kind: str, item: int) -> int:
        return numbers.setdefault(root((kind, item)), len(numbers))

    query_ids = np.asarray([number("query", item) for item in queries.tolist()], np.int32)
    target_ids = np.asarray([number("target", item) for item in targets.tolist()], np.int32)
    return query_ids, target_ids
