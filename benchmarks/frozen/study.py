"""What a study on frozen features tries: written down before it runs, in `configs/evidence/frozen.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from scipy.stats import qmc

from frozen.methods import METHODS
from frozen.training import Condition


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cells: each world under each condition by each method."""

    worlds: tuple[str, ...]
    conditions: tuple[str, ...]
    methods: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method, tuned and tested in one place."""

    world: str
    condition: str
    method: str


@dataclasses.dataclass(frozen=True)
class Study:
    """All that a study depends on, but the data.

    Attributes:
        space: the least and the largest value of every scalar; values between are taken on a logarithmic scale.
        trials: settings that every method may try in a cell, all over the space.
        refined: further settings that it may try around the best of those.
        spread: the largest factor between a refined setting and the best.
        tuning_seeds: each trial is trained from these, and judged by its mean hit@1 on validation questions.
        test_seeds: what was chosen is trained again from these, and tested. None is a tuning seed.
        conditions: by name.
        grids: what is run, the first things first; a cell that stands in several is run once.
        alphas: of the map, which trains EGA with InfoNCE's chosen temperature and learning rate: untuned for EGA.
        betas: of the map.
        map_methods: of the map.
        map_seeds: of the map; none is a tuning seed.
    """

    space: Mapping[str, tuple[float, float]]
    trials: int
    refined: int
    spread: float
    tuning_seeds: tuple[int, ...]
    test_seeds: tuple[int, ...]
    conditions: Mapping[str, Condition]
    grids: tuple[Grid, ...]
    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    map_methods: tuple[str, ...]
    map_seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if seen := set(self.tuning_seeds) & (set(self.test_seeds) | set(self.map_seeds)):
            raise ValueError(f"seeds {sorted(seen)} would both choose settings and test them")

    def cells(self) -> Iterator[Cell]:
        seen = set()
        for grid in self.grids:
            for condition in grid.conditions:
                for world in grid.worlds:
                    for method in grid.methods:
                        if METHODS[method].needs_negatives and not self.conditions[condition].negatives:
                            continue
                        cell = Cell(world, condition, method)
                        if cell not in seen:
                            seen.add(cell)
                            yield cell

    def settings(self, method: str) -> list[dict[str, float]]:
        """The settings a method tries first.

        A Halton sequence whose coordinates belong to the scalars: every method tries the same learning rates and
        temperatures together, and whatever else it has beside them.
        """
        return [
            {
                name: low * (high / low) ** float(point[name])
                for name, (low, high) in self.space.items()
                if name in point
            }
            for point in self._points(method, self.trials, seed=0)
        ]

    def refine(self, method: str, best: Mapping[str, float]) -> list[dict[str, float]]:
        """The settings a method tries then: the best, times factors that are the same for every method."""
        return [
            {name: value * self.spread ** (2 * float(point[name]) - 1) for name, value in best.items()}
            for point in self._points(method, self.refined, seed=1)
        ]

    def _points(self, method: str, count: int, seed: int) -> list[dict[str, float]]:
        """Points of the unit cube, by scalar."""
        names = list(self.space)
        points = qmc.Halton(len(names), rng=np.random.default_rng(seed)).random(count)
        wanted = ("learning_rate", *METHODS[method].tuned)
        return [{name: point[names.index(name)] for name in wanted} for point in points]
