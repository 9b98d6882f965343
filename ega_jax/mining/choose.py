"""Which of a query's neighbours become its hard negatives."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from jaxtyping import Float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """How negatives are chosen. Of a query's neighbours, best first, without its own positives."""

    negatives: int = 4
    """Of each row, at most; those that it has already count."""
    first_rank: int = 1
    """The nearest neighbour that is considered, from 1: the very nearest are often right answers that nobody marked."""
    last_rank: int = 100
    """The farthest."""
    relative_margin: float = 0.05
    """A neighbour nearer than (1 - this) times the positive's similarity is taken for a false negative: TopK-PercPos of
    NV-Retriever (arXiv 2407.15831), whose best is 0.05. Below 0 nothing is."""
    margin: float = 0.0
    """A neighbour nearer than the positive's similarity minus this is taken for a false negative too."""
    choice: Literal["hardest", "random"] = "hardest"
    """Of what is left, the nearest ones, or a seeded draw."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise BadInputError(f"negatives must be at least 1, got {self.negatives}")
        if not 1 <= self.first_rank <= self.last_rank:
            raise BadInputError(f"ranks must be 1 <= first <= last, got {self.first_rank} and {self.last_rank}")


class Choice(NamedTuple):
    """What was chosen for one query.

    Attributes:
      places: into its neighbours, best first.
      false_negatives: neighbours of the window that were too near to the positive.
    """

    places: list[int]
    false_negatives: int


def choose(
    similarities: Float32[np.ndarray, " k"], positive: float, wanted: int, settings: MiningSettings, row: int
) -> Choice:
    """Chooses among the neighbours of one query.

    Args:
      similarities: of its neighbours, best first; -inf where there is none.
      positive: the similarity of its positive; of several, the largest.
      wanted: how many.
      settings: the rules.
      row: the query's number, which the draw depends on.
    """
    window = np.arange(settings.first_rank - 1, min(settings.last_rank, len(similarities)))
    window = window[np.isfinite(similarities[window])]
    limit = positive - settings.margin
    if settings.relative_margin >= 0:
        limit = min(limit, positive - settings.relative_margin * abs(positive))
    elif settings.margin <= 0:
        limit = np.inf
    kept = window[similarities[window] <= limit]
    false_negatives = len(window) - len(kept)
    if settings.choice == "random" and len(kept) > wanted:
        kept = np.sort(np.random.default_rng((settings.seed, row)).choice(kept, wanted, replace=False))
    return Choice(kept[:wanted].tolist(), false_negatives)
