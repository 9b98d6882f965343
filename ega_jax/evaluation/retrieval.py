"""Retrieval metrics of queries that each have their own pool of candidates, exactly one of them right (gold).

Everything is a pure function of arrays. Ties count against the model: with MMEB's convention of the gold
candidate at index 0, an argmax would credit a model that maps everything to one point with 100 %; here it
scores 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Float32, Float64, Int, Int64

QUERY_BLOCK = 256
TARGET_BLOCK = 4096


def pool_scores(
    queries: Float32[np.ndarray, "Q D"],
    targets: Float32[np.ndarray, "T D"],
    candidates: Sequence[Int[np.ndarray, " C"]],
) -> Iterator[Float32[np.ndarray, " C"]]:
    """Yields the similarities between each query and the candidates of its own pool.

    Products are summed in float64 and rounded to float32 once. A float32 matrix product sums equal columns in
    an order that depends on where they stand, so that two equal candidates could differ in the last bit and a
    tie would pass for a win; rounding the float64 sum makes scores independent of the order of candidates and
    of how queries are blocked.

    Args:
      queries: (Q, D) float32, unit rows.
      targets: (T, D) float32, unit rows.
      candidates: for each query, (C_i,) indices into `targets`.

    Yields:
      For each query in order, (C_i,) float32 scores, parallel to its candidates.
    """
    for start in range(0, len(candidates), QUERY_BLOCK):
        block = candidates[start : start + QUERY_BLOCK]
        # Pools overlap, mostly wholly: one matrix product over their union costs less than a gather a query.
        union, positions = np.unique(np.concatenate(block), return_inverse=True)
        scores = _similarities(queries[start : start + len(block)], targets, union)
        pools = np.split(positions, np.cumsum([len(pool) for pool in block])[:-1])
        for row, pool in zip(scores, pools, strict=True):
            yield row[pool]


def _similarities(
    queries: Float32[np.ndarray, "Q D"], targets: Float32[np.ndarray, "T D"], chosen: Int[np.ndarray, " U"]
) -> Float32[np.ndarray, "Q U"]:
    """Returns `queries @ targets[chosen].T`, summed in float64; blocks of targets bound the memory."""
    scores = np.empty((len(queries), len(chosen)), np.float32)
    wide_queries = queries.astype(np.float64)
    for start in range(0, len(chosen), TARGET_BLOCK):
        block = slice(start, start + TARGET_BLOCK)
        scores[:, block] = wide_queries @ targets[chosen[block]].astype(np.float64).T
    return scores


def gold_rank(scores: Float32[np.ndarray, " C"]) -> int:
    """Returns the pessimistic rank of candidate 0: 1 + the number of others that score at least as high.

    A score that is not a number counts as higher than the gold one, whichever of the two it is.
    """
    return 1 + int(np.count_nonzero(~(scores[1:] < scores[0])))


def top_positions(scores: Float32[np.ndarray, " C"], ids: Int[np.ndarray, " C"], count: int) -> Int64[np.ndarray, " K"]:
    """Returns the positions in the pool of its best min(count, C) candidates, best first.

    Among equal scores the gold candidate (position 0) comes last, as in `gold_rank`, and the others in the
    order of their `ids`, so that the order of the pool does not matter.
    """
    is_gold = np.arange(len(scores)) == 0
    return np.lexsort((ids, is_gold, -scores))[:count]


def rank_values(metric: str, ranks: Int[np.ndarray, " Q"]) -> Float64[np.ndarray, " Q"]:
    """Returns what each query adds to a metric, whose value is the mean of these.

    Args:
      metric: "hit@k": 1 where the gold candidate is among the first k (k = 1: precision@1), else 0. "mrr": 1 / rank,
        not cut off. "ndcg@k", with one relevant candidate a query: 1 / log2(1 + rank), 0 where rank > k; the ideal
        ranking has a gain of 1, so that the normaliser is 1 (Järvelin & Kekäläinen, 2002).
      ranks: of the gold candidates, from 1.
    """
    name, _, cutoff = metric.partition("@")
    if name == "mrr":
        return 1.0 / ranks
    within = ranks <= int(cutoff)
    return within.astype(np.float64) if name == "hit" else np.where(within, 1.0 / np.log2(1.0 + ranks), 0.0)


def binomial_standard_error(share: float, count: int) -> float:
    """Returns sqrt(p (1 - p) / n), the standard error of a share p of n independent queries."""
    return float(np.sqrt(share * (1.0 - share) / count))
