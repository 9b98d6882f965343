"""Which pairs of its batches a run's loss amplifies, to be looked at: `amplified.json` of a run directory.

The pairs are those of training, not of a test set: the rows of the last batches before a validation, embedded with the
weights after them, under the loss's own options and its own rules of what counts as a negative.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ega_jax.evaluation.details import item
from ega_jax.evaluation.encoding import item_key

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from jaxtyping import Bool, Float32, Int

    from ega_jax.data.pipeline import BatchSides, TrainingBatches
    from ega_jax.data.records import Side
    from ega_jax.evaluation.encoding import Encode

LARGEST, SPREAD = 8, 6
"""Pairs that are spelt out: the most amplified, and others at even distances among the rest."""
LEAST_ROWS, MOST_BATCHES = 256, 8
"""The last batches are taken until they have so many rows."""

LOSS_OPTIONS = ("temperature", "alpha", "beta", "hardness", "combine", "false_negative_margin")


class Pairs(NamedTuple):
    """Each query of a batch that has a negative, with the hardest of them.

    Attributes:
      query, negative: (n,) places among the batch's queries, and among its targets.
      positive_similarity, negative_similarity: (n,) cosines with the query.
      amplification: (n,) `LossStats.hardest_negative_amplification`: 1 is InfoNCE.
    """

    query: Int[np.ndarray, " n"]
    negative: Int[np.ndarray, " n"]
    positive_similarity: Float32[np.ndarray, " n"]
    negative_similarity: Float32[np.ndarray, " n"]
    amplification: Float32[np.ndarray, " n"]


def amplified(
    encode: Encode, stats_of: Callable[..., Any], batches: TrainingBatches, done: int, loss: Mapping[str, Any]
) -> str:
    """Returns `amplified.json` after so many steps.

    Args:
      encode: n sides -> (n, D) float32 unit rows. Of several processes all call it with the same sides.
      stats_of: (queries, targets, labels, **options) -> `LossStats` of the loss under `LOSS_OPTIONS`; labels are the
        plan's arrays by `ega_loss`'s names.
      batches: of the run.
      done: steps done, at least one.
      loss: the run's settings of it, by name; `LOSS_OPTIONS` are used.
    """
    options = {name: loss[name] for name in LOSS_OPTIONS}
    rows: list[dict[str, Any]] = []
    taken, step = 0, done
    while step > max(done - MOST_BATCHES, 0) and taken < LEAST_ROWS:
        step -= 1
        sides = batches.sides_of(step)
        taken += sum(query is not None for query in sides.queries)
        rows += _spelt(sides, hardest_pairs(encode, stats_of, sides, options))
    rows.sort(key=lambda row: (-row["amplification"], row["positive_similarity"] - row["negative_similarity"]))
    rest = range(LARGEST, len(rows))
    chosen = [*range(min(LARGEST, len(rows))), *rest[len(rest) // (2 * SPREAD) :: max(len(rest) // SPREAD, 1)][:SPREAD]]
    pairs = [{"place": place + 1, **rows[place]} for place in chosen]
    told = {"first_step": step + 1, "last_step": done, "rows": len(rows), "loss": options, "pairs": pairs}
    return json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n"


def hardest_pairs(encode: Encode, stats_of: Callable[..., Any], sides: BatchSides, options: Mapping[str, Any]) -> Pairs:
    """Finds the hardest negative of each query of a batch, and what the loss makes of it; see `amplified`."""
    plan = sides.plan
    queries, targets = _embedded(encode, sides.queries, sides.targets)
    labels = {name: getattr(plan, name) for name in ("positives", "query_ids", "target_ids", "target_mask", "weights")}
    stats = stats_of(queries, targets, labels, **options)
    similarity = queries @ targets.T
    positive = similarity[np.arange(len(queries)), plan.positives][:, None]
    counts = _negatives(sides, similarity - positive, options["false_negative_margin"])
    place = np.flatnonzero(counts.any(axis=1))
    hardest = np.where(counts, similarity, -np.inf).argmax(axis=1)[place]
    return Pairs(
        place,
        hardest,
        np.asarray(stats.positive_similarity)[place],
        np.asarray(stats.hardest_negative_similarity)[place],
        np.asarray(stats.hardest_negative_amplification)[place],
    )


def _negatives(
    sides: BatchSides, hardness: Float32[np.ndarray, "N M"], margin: float | None
) -> Bool[np.ndarray, "N M"]:
    """Which targets count as negatives of which queries, as `ega_loss` has it."""
    plan = sides.plan
    counts = (plan.query_ids[:, None] != plan.target_ids) & plan.target_mask & (plan.weights[:, None] > 0)
    counts[np.arange(len(counts)), plan.positives] = False
    return counts if margin is None else counts & (hardness <= margin)


def _embedded(encode: Encode, *parts: Sequence[Side | None]) -> list[Float32[np.ndarray, "n D"]]:
    """Embeds some lists of sides in one call, equal ones once; what is None has a row of zeros."""
    places: dict[Hashable, int] = {}
    distinct: list[Side] = []
    for side in (side for part in parts for side in part if side is not None):
        if places.setdefault(item_key(side), len(distinct)) == len(distinct):
            distinct.append(side)
    vectors = np.asarray(encode(distinct), np.float32)
    vectors = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.float32)])
    return [vectors[[-1 if side is None else places[item_key(side)] for side in part]] for part in parts]


def _spelt(sides: BatchSides, pairs: Pairs) -> list[dict[str, Any]]:
    def spelt(side: Side | None) -> dict[str, Any]:
        assert side is not None  # what is absent is masked
        return item(side)

    return [
        {
            "subset": sides.subsets[query],
            "query": spelt(sides.queries[query]),
            "positive": spelt(sides.targets[sides.plan.positives[query]]),
            "negative": spelt(sides.targets[negative]),
            "positive_similarity": round(float(positive), 6),
            "negative_similarity": round(float(hardest), 6),
            "amplification": round(float(amplification), 6),
        }
        for query, negative, positive, hardest, amplification in zip(*pairs, strict=True)
    ]
