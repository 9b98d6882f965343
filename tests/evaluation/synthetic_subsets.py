"""Synthetic evaluation subsets, whose right answers the tests know, and encoders that look embeddings up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ega_jax.data.records import EvalSubset, Side, SubsetInfo


class TableEncoder:
    """Encodes a side by looking its text up in a table; keeps what it was asked."""

    def __init__(self, table: dict[str, np.ndarray]) -> None:
        self.table = table
        self.calls: list[list[Side]] = []

    def __call__(self, sides: Sequence[Side]) -> np.ndarray:
        self.calls.append(list(sides))
        return np.stack([self.table[side.text] for side in sides]).astype(np.float32)


def unit_rows(rng: np.random.Generator, rows: int, dimensions: int = 16) -> np.ndarray:
    vectors = rng.normal(size=(rows, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def random_subset(
    rng: np.random.Generator, name: str = "letters", queries: int = 40, targets: int = 60, **info: str
) -> tuple[EvalSubset, dict[str, np.ndarray]]:
    """A subset of random embeddings in pools of 2 to 20 candidates, and the table that embeds it."""
    query_sides = tuple(Side(f"{name} query {row}") for row in range(queries))
    target_sides = tuple(Side(f"{name} target {row}") for row in range(targets))
    pools = tuple(rng.permutation(targets)[: rng.integers(2, 21)].astype(np.int32) for _ in range(queries))
    subset = EvalSubset(SubsetInfo(name, **info), query_sides, target_sides, pools)  # type: ignore[arg-type]
    sides = [*query_sides, *target_sides]
    table = {side.text: row for side, row in zip(sides, unit_rows(rng, len(sides)), strict=True)}
    return subset, table
