"""Which shapes are compiled: a short list for the whole run, chosen before its first step, alike on all hosts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ega_jax.data.buckets import Bucket
from ega_jax.errors import BadInputError


class Program(NamedTuple):
    """The shape of a step, for which one program is compiled.

    Attributes:
      query, target: the padded shapes of both sides.
      negatives: slots for explicit negatives that every row has.
    """

    query: Bucket
    target: Bucket
    negatives: int

    def holds(self, other: Program) -> bool:
        """Whether a step of the other shape can be padded to this one."""
        return self.negatives == other.negatives and _join(self, other) == self

    @property
    def cost(self) -> int:
        """Token places and image slots of a row and its targets: what a step takes, near enough to compare."""
        return sum(self.query) + (1 + self.negatives) * sum(self.target)


def choose_programs(needed: Sequence[Program], largest: Sequence[Program], most: int) -> tuple[Program, ...]:
    """At most `most` programs that every step can be padded to, chosen so that steps like the given ones pad little.

    Starting with a program for each shape, the two whose union adds the least padding are made one until they are few
    enough.

    Args:
      needed: the smallest shapes of some steps, as they occur.
      largest: shapes of which one holds any step of the run.
      most: how many programs.

    Raises:
      BadInputError: not even one program for each number of negatives is allowed.
    """
    if most < len({program.negatives for program in largest}):
        counts = sorted({program.negatives for program in largest})
        raise BadInputError(
            f"data.max_programs {most}: rows with {', '.join(map(str, counts))} explicit negatives need a program "
            "each; raise it, or lower data.negatives_per_query"
        )
    weights = Counter(needed)
    weights.update(dict.fromkeys(largest, 0))
    added = {
        pair: _added(*pair, weights)
        for pair in itertools.combinations(sorted(weights), 2)
        if pair[0].negatives == pair[1].negatives
    }
    while len(weights) > most:
        first, second = min(added, key=lambda pair: (added[pair], pair))
        joined = _join(first, second)
        weight = weights.pop(first) + weights.pop(second)
        weights[joined] += weight
        touched = {first, second, joined}
        added = {pair: cost for pair, cost in added.items() if touched.isdisjoint(pair)}
        for other in weights:
            if other != joined and other.negatives == joined.negatives:
                pair = (min(other, joined), max(other, joined))
                added[pair] = _added(*pair, weights)
    return tuple(sorted(weights))


def cheapest(programs: Sequence[Program], needed: Program) -> Program:
    """The program that a step of this shape is padded to."""
    return min((program for program in programs if program.holds(needed)), key=lambda program: (program.cost, program))


def _join(first: Program, second: Program) -> Program:
    query, target = (Bucket(*map(max, one, other)) for one, other in zip(first[:2], second[:2], strict=True))
    return Program(query, target, max(first.negatives, second.negatives))


def _added(first: Program, second: Program, weights: Counter[Program]) -> tuple[int, int]:
    """The padding that a union adds to the steps; the union's cost tells ties apart."""
    joined = _join(first, second).cost
    added = sum(weights[program] * (joined - program.cost) for program in (first, second))
    return added, joined
