"""Intervals cover, p-values are uniform where there is nothing to find, and both match what can be computed exactly."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ega_jax.cli import BAD_INPUT, DONE, run
from ega_jax.errors import BadInputError
from ega_jax.evaluation.details import SubsetDetails
from ega_jax.evaluation.mmeb import mean_results, scores_of_ranks
from ega_jax.evaluation.resampling import compare, over_means, with_intervals
from ega_jax.evaluation.results import METRICS, Results, SubsetResult

PLACES = {"A": ("vqa", "in"), "B": ("vqa", "out"), "C": ("retrieval", "in")}


def results_of(ranks, items="same"):
    """Results of datasets with these gold ranks."""
    subsets = tuple(
        SubsetResult(name, *PLACES[name], len(of), 100.0, scores_of_ranks(np.asarray(of), 0.01), items)
        for name, of in ranks.items()
    )
    details = tuple(
        SubsetDetails(name, np.asarray(of).tolist(), [0.0] * len(of), [0.0] * len(of), [[]])
        for name, of in ranks.items()
    )
    return Results(subsets, mean_results(subsets), details=details)


def random_ranks(generator, share=0.6, queries=200):
    return {name: np.where(generator.random(queries) < share, 1, generator.integers(2, 30, queries)) for name in PLACES}


def test_intervals_are_those_of_the_binomial_and_means_combine_independent_datasets():
    results = with_intervals(results_of(random_ranks(np.random.default_rng(0))), resamples=40_000)
    errors = []
    for subset in results.subsets:
        share = subset.scores.hit_at_1
        error = math.sqrt(share * (1 - share) / 200)
        errors.append(error)
        assert subset.scores.intervals["hit@1"] == pytest.approx((share - 1.96 * error, share + 1.96 * error), abs=6e-3)
        for metric in METRICS:
            low, high = subset.scores.intervals[metric]
            assert low < subset.scores.metrics[metric] < high
    for name, combined in {
        "all": math.hypot(*errors) / 3,
        "macro": math.hypot(errors[0] / 2, errors[1] / 2, errors[2]) / 2,
    }.items():
        low, high = results.means[name].scores.intervals["hit@1"]
        assert (high - low) / 2 == pytest.approx(1.96 * combined, rel=0.03)
        assert (high + low) / 2 == pytest.approx(results.means[name].scores.hit_at_1, abs=2e-3)


def test_intervals_depend_on_the_seed_alone_and_survive_the_disk(tmp_path):
    ranks = random_ranks(np.random.default_rng(1))
    results = with_intervals(results_of(ranks))
    assert with_intervals(results_of(ranks)) == results
    assert with_intervals(results_of(ranks), seed=1) != results
    alone = with_intervals(results_of({"B": ranks["B"]}))
    assert alone.subsets[0].scores == results.subsets[1].scores
    assert Results.load(results.save(tmp_path)) == results


def test_means_are_those_of_the_protocol():
    results = results_of(random_ranks(np.random.default_rng(2)))
    values = {subset.name: np.asarray([subset.scores.hit_at_1]) for subset in results.subsets}
    expected = {name: mean.scores.hit_at_1 for name, mean in results.means.items()}
    assert {name: float(mean[0]) for name, mean in over_means(results.subsets, values).items()} == pytest.approx(
        expected
    )


def test_p_is_that_of_the_exact_sign_test():
    """Of 1,000 queries the second run gets 18 more right and 7 wrong: a coin that falls so or worse."""
    first, second = np.ones(1000, int), np.ones(1000, int)
    first[:18], second[18:25] = 2, 2
    of_subsets, of_means = compare(results_of({"A": first}), results_of({"A": second}), permutations=200_000)
    exact = 2 * sum(math.comb(25, k) for k in range(18, 26)) / 2**25
    found = of_subsets["A"]
    assert found.difference == pytest.approx(0.011)
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / 200_000))
    assert found.p_adjusted == found.p
    assert found.low < 0.011 < found.high
    error = math.sqrt((25 / 1000 - 0.011**2) / 1000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.06)
    assert of_means["all"].p == pytest.approx(exact, abs=6 * math.sqrt(exact / 200_000))


def test_where_there_is_nothing_to_find_p_is_as_often_small_as_it_says():
    generator = np.random.default_rng(3)
    found = []
    for _ in range(200):
        pair = (results_of(random_ranks(generator, queries=60)) for _ in range(2))
        found.append(compare(*pair, metric="mrr", permutations=400)[1]["all"].p)
    assert 0.01 < np.mean(np.asarray(found) < 0.05) < 0.10
    assert 0.4 < np.mean(found) < 0.6


def test_a_run_does_not_differ_from_itself_and_a_better_one_is_found():
    generator = np.random.default_rng(4)
    worse, better = results_of(random_ranks(generator, 0.4)), results_of(random_ranks(generator, 0.7))
    of_subsets, of_means = compare(worse, worse)
    for difference in (*of_subsets.values(), *of_means.values()):
        assert (difference.difference, difference.low, difference.high, difference.p) == (0.0, 0.0, 0.0, 1.0)
    for one, other, sign in ((worse, better, 1), (better, worse, -1)):
        of_subsets, of_means = compare(one, other)
        for difference in (*of_subsets.values(), *of_means.values()):
            assert sign * difference.difference > 0.2
            assert difference.p < 1e-3
            assert sign * (difference.low if sign > 0 else difference.high) > 0
        for difference in of_subsets.values():
            assert difference.p_adjusted == pytest.approx(min(1, 3 * difference.p), rel=0.7)
            assert difference.p_adjusted >= difference.p


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: results_of({"A": [1, 2]}), "scored on B, C"),
        (
            lambda results: results_of(random_ranks(np.random.default_rng(0)), "others"),
            "different questions in A, B, C",
        ),
        (lambda results: results_of(random_ranks(np.random.default_rng(0)), ""), "run eval again"),
        (lambda results: dataclasses.replace(results, details=()), "run eval again"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(change, message):
    results = results_of(random_ranks(np.random.default_rng(5)))
    for pair in ((results, change(results)), (change(results), results)):
        with pytest.raises(BadInputError, match=message):
            compare(*pair)


def test_the_command(tmp_path, capsys):
    generator = np.random.default_rng(6)
    for name, share in (("one", 0.4), ("two", 0.7)):
        results = dataclasses.replace(results_of(random_ranks(generator, share)), missing=("GQA",))
        results.save(tmp_path / name)
    arguments = ["compare", str(tmp_path / "one"), str(tmp_path / "two" / "results.json")]
    assert run([*arguments, "--output", str(tmp_path / "found.json")]) == DONE
    printed = capsys.readouterr().out
    assert printed.count("Partial: 3 of 4") == 2
    document = json.loads((tmp_path / "found.json").read_text())
    assert set(document["subsets"]) == set(PLACES)
    row = document["means"]["all"]
    assert f"| All | {100 * row['first']:.1f} | {100 * row['second']:.1f} | {100 * row['difference']:+.1f} |" in printed
    assert run(["compare", str(tmp_path), str(tmp_path)]) == BAD_INPUT
    assert "run `ega-jax eval` first" in capsys.readouterr().err
