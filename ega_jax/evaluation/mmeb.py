"""MMEB's protocol (arXiv 2410.05160): each query ranks its own candidates; hit@1 a subset; plain means.

Where common harnesses are lenient this one is strict, because each leniency has flattered numbers: ties count
against the model, an embedding that is not finite is an error, queries and targets go through one and the
same encoder call, scores are float32, and means over fewer subsets than the suite has are labelled partial.
"""

from __future__ import annotations

import collections
import statistics
from typing import TYPE_CHECKING, get_args

import numpy as np

from ega_jax.data.records import MetaTask
from ega_jax.data.subsets import SUBSETS
from ega_jax.errors import BadInputError
from ega_jax.evaluation import retrieval
from ega_jax.evaluation.details import MOST_TEXT, Example, SubsetDetails, choose_examples, item
from ega_jax.evaluation.encoding import EncodedItems
from ega_jax.evaluation.results import (
    METRICS,
    MeanResult,
    Results,
    Scores,
    SubsetResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from jaxtyping import Float32, Int32, Int64

    from ega_jax.data.records import EvalSubset
    from ega_jax.evaluation.encoding import Encode

TOP = 5
"""Candidates that are kept of each query."""


def evaluate(
    encode: Encode,
    subsets: Sequence[EvalSubset],
    *,
    suite: str | None = None,
    expected: Collection[str] | None = None,
    short: Mapping[str, str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Results:
    """Encodes every distinct item once, scores every query against its own pool, and averages as MMEB does.

    Args:
      encode: maps n sides to (n, D) float32 unit rows. It is called with the distinct sides of all subsets,
        queries and targets alike, in the order of first appearance, some thousands at a time.
      subsets: what to evaluate; names must differ.
      suite: what the subsets are part of, e.g. "glyphs"; None is "mmeb" where all have names of MMEB's, else "custom".
      expected: names of all subsets of the suite; those not evaluated are listed as missing in the results. None is
        MMEB's 36 where that is the suite, else no expectation.
      short: subsets that are smaller than the suite's, and what they lack; see `ega_jax.evaluation.suite`.
      progress: called with (items done, items in all), first with 0 done.

    Returns:
      Scores of every subset in the order given, their means, and what each query retrieved.

    Raises:
      BadInputError: a subset is empty, has a query without candidates, or shares its name with another.
      NonFiniteEmbeddingError: an embedding is NaN or infinite.
      ValueError: `encode` returned rows of another number, rank or norm than it should.
    """
    _check_subsets(subsets)
    items = EncodedItems(encode, subsets, progress)
    outcomes = [_score_subset(subset, items) for subset in subsets]
    scored = tuple(result for result, _ in outcomes)
    names = {subset.info.name for subset in subsets}
    if suite is None:
        suite = "mmeb" if names <= SUBSETS.keys() else "custom"
    if expected is None:
        expected = SUBSETS if suite == "mmeb" else ()
    return Results(
        subsets=scored,
        means=mean_results(scored),
        suite=suite,
        missing=tuple(sorted(set(expected) - names)),
        details=tuple(details for _, details in outcomes),
        dimensions=items.embeddings.shape[1],
        short=dict(short or {}),
    )


def mean_results(subsets: Sequence[SubsetResult]) -> dict[str, MeanResult]:
    """Returns MMEB's means: "all", "in", "out", each meta-task present, and "macro" over meta-tasks."""
    means = {"all": _mean_of_subsets(subsets)}
    for distribution in ("in", "out"):
        chosen = [subset for subset in subsets if subset.distribution == distribution]
        if chosen:
            means[distribution] = _mean_of_subsets(chosen)
    present = {subset.meta_task for subset in subsets}
    meta_tasks = [meta_task for meta_task in get_args(MetaTask) if meta_task in present]
    for meta_task in meta_tasks:
        means[meta_task] = _mean_of_subsets([subset for subset in subsets if subset.meta_task == meta_task])
    macro = _mean_of_scores([means[meta_task].scores for meta_task in meta_tasks])
    return {**means, "macro": MeanResult(len(subsets), macro)}


def scores_of_ranks(ranks: Int32[np.ndarray, " Q"], chance: float) -> Scores:
    """Returns all metrics of the given gold ranks (Q,)."""
    metrics = {metric: float(np.mean(retrieval.rank_values(metric, ranks))) for metric in METRICS}
    return Scores(
        metrics=metrics,
        standard_error=retrieval.binomial_standard_error(metrics["hit@1"], len(ranks)),
        chance=chance,
    )


def _check_subsets(subsets: Sequence[EvalSubset]) -> None:
    if not subsets:
        raise BadInputError("nothing to evaluate: no subset was given")
    counts = collections.Counter(subset.info.name for subset in subsets)
    if doubled := sorted(name for name, count in counts.items() if count > 1):
        raise BadInputError(f"subsets given more than once: {', '.join(doubled)}")
    for subset in subsets:
        name, queries, pools = subset.info.name, len(subset.queries), len(subset.candidates)
        if queries == 0:
            raise BadInputError(f"subset {name!r} has no queries")
        if pools != queries:
            raise BadInputError(f"subset {name!r} has {queries} queries but {pools} candidate pools")
        for row, pool in enumerate(subset.candidates):
            if len(pool) == 0:
                raise BadInputError(f"subset {name!r}, query {row}: no candidates")
            if np.min(pool) < 0 or np.max(pool) >= len(subset.targets):
                raise BadInputError(f"subset {name!r}, query {row}: a candidate is not among the targets")


def _mean_of_subsets(subsets: Sequence[SubsetResult]) -> MeanResult:
    return MeanResult(len(subsets), _mean_of_scores([subset.scores for subset in subsets]))


def _mean_of_scores(scores: Sequence[Scores]) -> Scores:
    return Scores(
        metrics={metric: statistics.fmean(score.metrics[metric] for score in scores) for metric in METRICS},
        standard_error=sum(score.standard_error**2 for score in scores) ** 0.5 / len(scores),
        chance=statistics.fmean(score.chance for score in scores),
    )


def _score_subset(subset: EvalSubset, items: EncodedItems) -> tuple[SubsetResult, SubsetDetails]:
    target_ids = items.ids(subset.targets)
    queries, targets = items.embeddings[items.ids(subset.queries)], items.embeddings[target_ids]
    pools = [_distinct(np.asarray(pool), target_ids) for pool in subset.candidates]
    _, first_place, same = np.unique(target_ids, return_index=True, return_inverse=True)
    number = first_place[same]  # equal candidates that stand twice among the targets have one
    ranks, positives, hardest, tops, examples_top = [], [], [], [], []
    for pool, scores in zip(pools, retrieval.pool_scores(queries, targets, pools), strict=True):
        best = retrieval.top_positions(scores, target_ids[pool], TOP)
        ranks.append(retrieval.gold_rank(scores))
        positives.append(_rounded(scores[0]))
        hardest.append(_rounded(scores[1:].max()) if len(scores) > 1 else None)
        tops.append(pool[best].tolist())
        examples_top.append([(int(place), _rounded(scores[place])) for place in best])
    examples = tuple(
        Example(
            query_index=row,
            query=item(subset.queries[row]),
            gold=item(subset.targets[pools[row][0]]),
            gold_score=positives[row],
            retrieved=tuple(
                {**item(subset.targets[pools[row][place]]), "score": score, "is_gold": place == 0}
                for place, score in examples_top[row]
            ),
        )
        for row in choose_examples(ranks)
    )
    sizes = np.asarray([len(pool) for pool in pools])
    result = SubsetResult(
        name=subset.info.name,
        meta_task=subset.info.meta_task,
        distribution=subset.info.distribution,
        queries=len(ranks),
        pool_size=float(sizes.mean()),
        scores=scores_of_ranks(np.asarray(ranks, np.int32), chance=float(np.mean(1.0 / sizes))),
    )
    gold = [int(number[pool[0]]) for pool in pools]
    first = [int(number[top[0]]) for top in tops]
    shown = {place: item(subset.targets[place], MOST_TEXT) for place in sorted({*gold, *first})}
    return result, SubsetDetails(
        subset.info.name, ranks, positives, hardest, tops, examples, gold=gold, first=first, items=shown
    )


def _distinct(pool: Int32[np.ndarray, " C"], target_ids: Int64[np.ndarray, " T"]) -> Int32[np.ndarray, " U"]:
    """Drops an item's repeats from a pool: a copy of the gold one must not count against it."""
    _, first_appearances = np.unique(target_ids[pool], return_index=True)
    return pool[np.sort(first_appearances)]


def _rounded(similarity: Float32[np.ndarray, ""]) -> float:
    return round(float(similarity), 6)
