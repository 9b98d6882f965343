"""Files and tables of results."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from ega_jax.data.records import Side
from ega_jax.errors import BadInputError
from ega_jax.evaluation import Results, evaluate, markdown_table, results_table

from .synthetic_subsets import TableEncoder, random_subset


@pytest.fixture
def results():
    rng = np.random.default_rng(0)
    first, table = random_subset(rng, "first", meta_task="vqa")
    second, more = random_subset(rng, "[bold]|second", meta_task="retrieval", distribution="out")
    odd = Side("first query\u2028")  # a line end to Python, though not to JSON
    first = dataclasses.replace(first, queries=(odd, *first.queries[1:]))
    table[odd.text] = table["first query 0"]
    return evaluate(TableEncoder(table | more), [first, second], suite="mmeb", expected=["GQA"])


def test_results_survive_the_disk(results, tmp_path):
    path = results.save(tmp_path / "run")
    assert path == tmp_path / "run" / "results.json"
    assert Results.load(path) == results
    assert sorted(file.name for file in path.parent.iterdir()) == ["results.json", "results_details.jsonl"]


def test_results_file_has_the_documented_schema(results, tmp_path):
    document = json.loads(results.save(tmp_path).read_text())
    assert {key: document[key] for key in ("schema", "version", "suite", "complete", "missing", "short")} == {
        "schema": "ega_jax.results",
        "version": 2,
        "suite": "mmeb",
        "complete": False,
        "missing": ["GQA"],
        "short": {},
    }
    scores = {"chance", "hit@1", "hit@1_standard_error", "hit@5", "hit@10", "mrr", "ndcg@5"}
    for subset in document["subsets"]:
        assert set(subset) == {"name", "meta_task", "distribution", "queries", "pool_size"} | scores
    assert list(document["means"]) == ["all", "in", "out", "vqa", "retrieval", "macro"]
    for mean in document["means"].values():
        assert set(mean) == {"subsets"} | scores


def test_details_of_an_earlier_evaluation_do_not_outlive_it(results, tmp_path):
    results.save(tmp_path)
    scores_only = Results.from_json(results.to_json())
    assert scores_only.details == ()
    assert Results.load(scores_only.save(tmp_path)) == scores_only


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:50], "not JSON"),
        (lambda text: "[]", "not a results file"),
        (lambda text: text.replace("ega_jax.results", "other"), "not a results file"),
        (lambda text: text.replace('"version": 2', '"version": 3'), "version 3"),
        (lambda text: text.replace('"hit@5"', '"hit@6"'), "damaged.*hit@5"),
        (lambda text: text.replace('"queries": 40', '"queries": "many"'), "damaged"),
    ],
)
def test_damaged_results_are_refused_by_name(results, tmp_path, change, message):
    path = results.save(tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(BadInputError, match=rf"results\.json: .*{message}"):
        Results.load(path)


@pytest.mark.parametrize("text", ["{", "{}", '{"name": "s", "examples": [{"typo": 1}]}'])
def test_damaged_details_are_refused_by_name(results, tmp_path, text):
    path = results.save(tmp_path)
    (tmp_path / "results_details.jsonl").write_text(text)
    with pytest.raises(BadInputError, match=r"results_details\.jsonl: damaged"):
        Results.load(path)


def test_tables_show_percent_means_differences_and_what_is_missing(results):
    text = markdown_table(results, baseline=results)
    note, _, header, _, *rows = text.splitlines()
    assert "Partial: 2 of 3 subsets of mmeb" in note
    assert "GQA" in note
    assert len(rows) == 2 + 6
    assert len({line.replace("\\|", "").count("|") for line in [header, *rows]}) == 1
    hit = 100 * results.means["macro"].scores.hit_at_1
    assert f"| {hit:.1f} |" in rows[-1]
    assert rows[-1].count("+0.0") == 1

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(results))
    shown = console.export_text()
    assert "…" not in shown  # it fits
    assert "[bold]|second *" in shown
    assert "Partial: 2 of 3" in shown
    assert f"{hit:.1f}" in shown
    assert "Baseline" not in shown
