"""How far scores can be trusted: bootstrap intervals of one run, and a paired test between two.

All randomness is seeded, by dataset: the interval of one dataset does not depend on which others were scored. Queries
are resampled within their dataset, and datasets are kept: a mean's interval is about other queries, not other tasks.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import TYPE_CHECKING

import numpy as np

from ega_jax.errors import BadInputError
from ega_jax.evaluation.results import METRICS, Confidence, Results
from ega_jax.evaluation.retrieval import rank_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float64, Int

    from ega_jax.evaluation.results import Scores, SubsetResult

RESAMPLES = 2000
"""Bootstrap samples; the ends of a 95 % interval move by about a twentieth of its width from seed to seed."""

PERMUTATIONS = 10_000
"""Sign flips of the paired test; the smallest p that it can give is 1 in so many."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The second run's score less the first's, of one dataset or mean.

    Attributes:
      first: the score of the first run.
      second: that of the second.
      low: where the 95 % bootstrap interval of the difference begins.
      high: where it ends.
      p: two-sided, of the paired permutation test: how often a difference so large comes about if the two runs could
        be exchanged query by query.
      p_adjusted: `p` after Holm's correction for the number of datasets; None for means.
    """

    first: float
    second: float
    low: float
    high: float
    p: float
    p_adjusted: float | None = None

    @property
    def difference(self) -> float:
        return self.second - self.first


def with_intervals(results: Results, *, seed: int = 0, resamples: int = RESAMPLES) -> Results:
    """Adds 95 % percentile bootstrap intervals to all scores and means.

    Args:
      results: with details.
      seed: decides them.
      resamples: bootstrap samples.
    """
    draws = {}
    for subset, details in zip(results.subsets, results.details, strict=True):
        ranks, counts = np.unique(details.ranks, return_counts=True)
        values = np.stack([rank_values(metric, ranks) for metric in METRICS], axis=1)
        draws[subset.name] = _bootstrap(values, counts, _generator(seed, subset.name), resamples)
    means = over_means(results.subsets, draws)

    def scores_of(scores: Scores, drawn: Float64[np.ndarray, "R M"]) -> Scores:
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0).tolist()
        return dataclasses.replace(scores, intervals=dict(zip(METRICS, zip(low, high, strict=True), strict=True)))

    return dataclasses.replace(
        results,
        subsets=tuple(
            dataclasses.replace(subset, scores=scores_of(subset.scores, draws[subset.name]))
            for subset in results.subsets
        ),
        means={
            name: dataclasses.replace(mean, scores=scores_of(mean.scores, means[name]))
            for name, mean in results.means.items()
        },
        confidence=Confidence(level=0.95, resamples=resamples, seed=seed),
    )


def compare(
    first: Results, second: Results, *, metric: str = "hit@1", seed: int = 0, permutations: int = PERMUTATIONS
) -> tuple[dict[str, Difference], dict[str, Difference]]:
    """Compares two runs query by query: of each dataset, and of each mean.

    Args:
      first: results with details.
      second: likewise, of the same questions.
      metric: one of `METRICS`.
      seed: decides the resampling.
      permutations: sign flips, and bootstrap samples.

    Raises:
      BadInputError: the two did not answer the same questions, or what each query retrieved is not known.
    """
    _require_same_questions(first, second)
    if metric not in METRICS:
        raise BadInputError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    theirs = {details.name: details.ranks for details in second.details}
    observed, flipped, drawn = {}, {}, {}
    for details in first.details:
        generator = _generator(seed, details.name)
        gains = rank_values(metric, np.asarray(theirs[details.name])) - rank_values(metric, np.asarray(details.ranks))
        values, counts = np.unique(gains, return_counts=True)
        observed[details.name] = np.mean(gains, keepdims=True)
        drawn[details.name] = _bootstrap(values[:, None], counts, generator, permutations)[:, 0]
        flipped[details.name] = _sign_flips(gains, generator, permutations)
    before = {subset.name: subset.scores.metrics[metric] for subset in first.subsets}
    after = {subset.name: subset.scores.metrics[metric] for subset in second.subsets}
    of_subsets = {
        name: _difference(before[name], after[name], observed[name], drawn[name], flipped[name]) for name in before
    }
    for name, p in _holm({name: difference.p for name, difference in of_subsets.items()}).items():
        of_subsets[name] = dataclasses.replace(of_subsets[name], p_adjusted=p)
    mean_observed, mean_drawn, mean_flipped = (over_means(first.subsets, x) for x in (observed, drawn, flipped))
    of_means = {
        name: _difference(
            first.means[name].scores.metrics[metric],
            second.means[name].scores.metrics[metric],
            mean_observed[name],
            mean_drawn[name],
            mean_flipped[name],
        )
        for name in first.means
    }
    return of_subsets, of_means


def over_means(subsets: Sequence[SubsetResult], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The means of `ega_jax.evaluation.mmeb.mean_results`, of one array a dataset."""
    members: dict[str, list[str]] = {"all": [subset.name for subset in subsets]}
    for subset in subsets:
        members.setdefault(subset.distribution, []).append(subset.name)
        members.setdefault(subset.meta_task, []).append(subset.name)
    means = {mean: np.mean([values[name] for name in names], axis=0) for mean, names in members.items()}
    meta_tasks = {subset.meta_task for subset in subsets}
    return {**means, "macro": np.mean([means[meta_task] for meta_task in sorted(meta_tasks)], axis=0)}


def _bootstrap(
    values: Float64[np.ndarray, "U M"], counts: Int[np.ndarray, " U"], generator: np.random.Generator, resamples: int
) -> Float64[np.ndarray, "R M"]:
    """Means of M values over resampled queries; queries of equal values are drawn together, by their number."""
    total = counts.sum()
    return generator.multinomial(total, counts / total, size=resamples) @ values / total


def _sign_flips(
    gains: Float64[np.ndarray, " Q"], generator: np.random.Generator, permutations: int
) -> Float64[np.ndarray, " R"]:
    """Mean gains, had each query's two answers come from the two runs in random order."""
    sizes, counts = np.unique(np.abs(gains[gains != 0]), return_counts=True)
    signs = 2 * generator.binomial(counts, 0.5, size=(permutations, len(sizes))) - counts
    return signs @ sizes / len(gains)


def _difference(
    first: float, second: float, observed: np.ndarray, drawn: np.ndarray, flipped: np.ndarray
) -> Difference:
    low, high = np.quantile(drawn, [0.025, 0.975])
    # Sums are taken in another order than what was observed: equal ones must count as equal.
    extreme = np.count_nonzero(np.abs(flipped) >= abs(observed[0]) - 1e-12)
    return Difference(first, second, float(low), float(high), (1 + extreme) / (1 + len(flipped)))


def _holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction (1979)."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(values, key=lambda name: values[name])):
        largest = max(largest, min(1.0, (len(values) - place) * values[name]))
        adjusted[name] = largest
    return adjusted


def _require_same_questions(first: Results, second: Results) -> None:
    names, others = ({subset.name: subset.items for subset in results.subsets} for results in (first, second))
    if alone := sorted(names.keys() ^ others.keys()):
        raise BadInputError(f"only one of the two runs was scored on {', '.join(alone)}: score both on the same data")
    for results in (first, second):
        if len(results.details) != len(results.subsets):
            raise BadInputError("what each query retrieved is not there (results_details.jsonl): run eval again")
    if unknown := [name for name in names if not names[name] or not others[name]]:
        raise BadInputError(f"it is not known which items {', '.join(unknown)} had: run eval again")
    if different := [name for name in names if names[name] != others[name]]:
        raise BadInputError(
            f"the two runs answered different questions in {', '.join(different)}: other queries, candidates or "
            "pictures. Score both on the same data"
        )


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
