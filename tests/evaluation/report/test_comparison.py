"""Several runs on one page."""

import json
import shutil

import numpy as np
import pytest

from ega_jax.cli import BAD_INPUT, DONE
from ega_jax.cli import run as ega_jax
from ega_jax.errors import BadInputError
from ega_jax.evaluation import evaluate
from ega_jax.evaluation.report import write_comparison

from ..synthetic_subsets import TableEncoder, random_subset
from .test_page import HOSTILE, parse, write_amplified, write_metrics


@pytest.fixture
def runs(tmp_path):
    """Two runs on the same queries, of which the second answers more; with another beta and a hostile note."""
    generator = np.random.default_rng(3)
    made = [random_subset(generator, name, queries=30, targets=20) for name in ("Small", "Large")]
    subsets, random = [subset for subset, _ in made], {**made[0][1], **made[1][1]}
    better = dict(random)
    for subset in subsets:
        for query, pool in zip(subset.queries, subset.candidates, strict=True):
            drawn = random[query.text] + random[subset.targets[pool[0]].text]
            better[query.text] = drawn / np.linalg.norm(drawn)
    paths = []
    for name, beta, table in (("info_nce", 0.0, random), ("ega", 2.0, better)):
        home = tmp_path / name
        home.mkdir()
        config = {"steps": 100, "seed": 3, "loss": {"beta": beta, "temperature": 0.02}, "note": HOSTILE if beta else ""}
        (home / "config.json").write_text(json.dumps(config))
        write_metrics(home)
        write_amplified(home, [home / "gone.png"] * 3, beta)
        evaluate(TableEncoder(table), subsets).save(home)
        paths.append(home)
    return paths


def test_what_differs_is_told_and_what_does_not_is_not(runs, tmp_path):
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    checked = parse(page)
    assert "<script>" not in page
    assert HOSTILE not in page
    assert not [value for _, name, value in checked.attributes if name in ("src", "href") and "data:" not in value]
    settings = page.partition("Settings that differ")[2].partition("</section>")[0]
    assert "<th>loss.beta</th><td>0.0</td><td>2.0</td>" in settings
    assert "temperature" not in settings
    assert "seed" not in settings


def test_scores_changes_and_answers_are_those_of_the_results(runs, tmp_path):
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    first, second = (json.loads((run / "results.json").read_text()) for run in runs)
    ranks = [
        {line["name"]: line["ranks"] for line in map(json.loads, (run / "results_details.jsonl").open())}
        for run in runs
    ]
    for before, after in zip(first["subsets"], second["subsets"], strict=True):
        change = 100 * (after["hit@1"] - before["hit@1"])
        row = page.partition(f"<tr><th>{before['name']}</th>")[2].partition("</tr>")[0]
        assert f">{100 * before['hit@1']:.1f}<" in row
        assert f">{100 * after['hit@1']:.1f}<" in row
        assert f">{change:+.1f}<" in row
        alone = sum(a == 1 != b for a, b in zip(ranks[0][before["name"]], ranks[1][before["name"]], strict=True))
        gained = sum(b == 1 != a for a, b in zip(ranks[0][before["name"]], ranks[1][before["name"]], strict=True))
        assert gained > 0
        assert f"<tr><th>{before['name']}</th><td>ega</td><td>{gained}</td><td>{alone}</td></tr>" in page


def test_lines_can_be_told_apart_in_grey(runs, tmp_path):
    page = write_comparison([*runs, *_copies(runs, tmp_path)], tmp_path / "page.html").read_text()
    chart = page.partition("Loss (InfoNCE)")[2].partition("</svg>")[0]
    dashes = [line.partition('stroke-dasharray="')[2].partition('"')[0] for line in chart.split("<polyline")[1:]]
    assert len(set(dashes)) == len(dashes) == 4


def _copies(runs, tmp_path):
    return [shutil.copytree(run, tmp_path / f"{run.name}_again") for run in runs]


def test_a_run_that_was_not_scored_is_said(runs, tmp_path):
    (runs[1] / "results.json").unlink()
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    parse(page)
    assert "ega: Not evaluated yet" in page
    assert "hit@1, %" not in page


def test_one_or_five_runs_are_no_comparison(runs, tmp_path):
    for some in (runs[:1], [*runs, *runs, *runs]):
        with pytest.raises(BadInputError, match="from 2 to 4"):
            write_comparison(some, tmp_path / "page.html")


def test_the_command_writes_each_report_and_the_comparison(runs, tmp_path, capsys):
    output = tmp_path / "both.html"
    assert ega_jax(["report", *map(str, runs), "--output", str(output)]) == DONE
    assert capsys.readouterr().out.split() == [*(str(run / "report.html") for run in runs), str(output)]
    assert output.is_file()
    assert ega_jax(["report", str(runs[0]), str(tmp_path)]) == BAD_INPUT
