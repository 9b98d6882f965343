"""What single queries retrieved: numbers for every query, and a few examples spelt out for the report."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ega_jax.data.images import StoredImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ega_jax.data.records import Side

AMPLIFIED = "amplified.json"
"""Of a run directory: the pairs of its batches that the loss amplified most (`ega_jax.evaluation.amplified`)."""

MOST_TEXT = 280
"""Characters of a text that the report shows, and that `SubsetDetails.items` keeps."""

EXAMPLES_PER_OUTCOME = 3
"""Queries answered right, and as many answered wrong, that are spelt out for the report of each subset."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One query that the report shows, with what it retrieved.

    An item is {"text": str, "images": [absolute path or name, or None for a picture that was only in memory]}.

    Attributes:
      query_index: which query of the subset.
      query, gold: the items.
      retrieved: the best candidates, best first, each an item with "score" and "is_gold".
      gold_score: similarity of query and gold.
    """

    query_index: int
    query: dict[str, Any]
    gold: dict[str, Any]
    gold_score: float
    retrieved: tuple[dict[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class SubsetDetails:
    """What each query of one subset retrieved; the lists are parallel to the queries.

    Attributes:
      name: the subset.
      ranks: pessimistic rank of the gold candidate, from 1.
      positive_similarity: cosine of query and gold candidate.
      hardest_negative_similarity: highest cosine of the query with another candidate; None where the pool has
        no other.
      top: indices into the subset's `targets` of the best 5 candidates, best first (fewer where the pool is
        smaller).
      examples: a few queries spelt out, some right and some wrong.
      gold: number of the right candidate; equal candidates have one number.
      first: number of the candidate that was ranked first.
      items: what the candidates of `gold` and `first` are, by number; texts of any length are cut. Empty in files of
        earlier versions, as are `gold` and `first`.
    """

    name: str
    ranks: list[int]
    positive_similarity: list[float]
    hardest_negative_similarity: list[float | None]
    top: list[list[int]]
    examples: tuple[Example, ...] = ()
    gold: list[int] = dataclasses.field(default_factory=list)
    first: list[int] = dataclasses.field(default_factory=list)
    items: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """Returns the details as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(line: str) -> SubsetDetails:
        """Returns the details that `to_json` wrote."""
        fields = json.loads(line)
        examples = tuple(
            Example(**{**example, "retrieved": tuple(example["retrieved"])}) for example in fields["examples"]
        )
        items = {int(number): item for number, item in fields.get("items", {}).items()}
        return SubsetDetails(**{**fields, "examples": examples, "items": items})


def choose_examples(ranks: Sequence[int], count: int = EXAMPLES_PER_OUTCOME) -> list[int]:
    """Returns up to `count` queries that were answered right, then as many that were not.

    They stand at even distances among all of their kind, so that the choice is neither random nor flattering.
    """
    chosen = []
    for right in (True, False):
        rows = [row for row, rank in enumerate(ranks) if (rank == 1) == right]
        step = max(len(rows) / count, 1.0)
        chosen += [rows[int((index + 0.5) * step)] for index in range(min(count, len(rows)))]
    return chosen


def item(side: Side, most_text: int | None = None) -> dict[str, Any]:
    """Returns a side as an example spells it out; of its text no more than so many characters."""
    # Absolute, because the report may be written from another working directory.
    images = [os.path.abspath(str(image)) if isinstance(image, Path | StoredImage) else None for image in side.images]
    text = side.text if most_text is None or len(side.text) <= most_text else side.text[: most_text - 1] + "…"
    return {"text": text, "images": images}
