"""The pages of benchmarks are drawn from their results, and say of each target whether it was met."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def test_the_page_of_the_loss_is_drawn_from_its_results(benchmarks):
    results = benchmarks("measure").Results(ROOT / "docs/benchmarks/loss.json")
    assert benchmarks("loss_page").render(results) == (ROOT / "docs/benchmarks/loss.md").read_text()


def test_the_page_of_scale_is_drawn_from_its_records(benchmarks):
    scale, page = benchmarks("scale"), benchmarks("scale_page")
    records, cells = list(scale.read().values()), [scale.planned(cell) for cell in scale.cells()]
    assert page.render(records, cells) == (ROOT / "docs/benchmarks/scale.md").read_text()
    assert page.choices(records, cells) in (ROOT / "docs/scale.md").read_text()


def test_results_replace_what_they_measure_again(benchmarks, tmp_path):
    results = benchmarks("measure").Results(tmp_path / "results.json")
    results.save(
        "memory",
        [{"rows": 8192, "features": 1024, "naive_mib": 1.0, "ega_mib": 150.0, "symmetric_mib": 1.0}],
        "a laptop",
    )
    results.save(
        "memory",
        [{"rows": 32768, "features": 1024, "naive_mib": 1.0, "ega_mib": 200.0, "symmetric_mib": 1.0}],
        "a laptop",
    )
    page = benchmarks("loss_page").render(results)
    assert "| temporaries, N = 8192, D = 1024, MiB | 150 | ≤ 140 | **miss** |" in page
    assert "| temporaries, N = 32768, D = 1024, MiB | 200 | ≤ 400 | pass |" in page
    results.save(
        "memory",
        [{"rows": 8192, "features": 1024, "naive_mib": 1.0, "ega_mib": 130.0, "symmetric_mib": 1.0}],
        "a laptop",
    )
    assert "| temporaries, N = 8192, D = 1024, MiB | 130 | ≤ 140 | pass |" in benchmarks("loss_page").render(results)
    assert len(json.loads((tmp_path / "results.json").read_text())["memory"]["rows"]) == 2


def test_the_page_of_train_steps_judges_and_draws_series(benchmarks, tmp_path):
    results = benchmarks("measure").Results(tmp_path / "results.json", benchmarks("train").SUBJECT)
    size = {"rows": 8, "chunk": 2, "room": 64, "tokens": 200, "rounds": 3}
    common = {**size, "trained": 2e6, "difference": 1e-6}
    step = {
        "seconds": {"torch": 6.0, "jax": 5.0},
        "temporaries_mib": {"jax": 100.0},
        "later_gib": {"torch": 1.9, "jax": 0.9},
    }
    rows = [
        {**common, **step, "training": "full", "ratio": 1.2, "first_gib": {"torch": 2.0, "jax": 1.0}},
        {**common, **step, "training": "lora", "ratio": 0.9, "first_gib": {"torch": 2.0, "jax": 3.0}},
    ]
    results.save("step", rows, "a laptop")
    cached = {"seconds": {"whole": 2.0, "chunks": 3.0}, "temporaries_mib": {"whole": 900.0, "chunks": 180.0}}
    cached |= {
        "training": "full",
        "ratio": 1.5,
        "share": 0.2,
        "first_gib": {"whole": 2.0, "chunks": 1.0},
        "later_gib": {"whole": 2.0, "chunks": 1.0},
    }
    results.save("gradcache", [{**common, **cached}], "a laptop")
    linear = [
        {**size, "training": "lora", **changed, "seconds": 2.0, "temporaries_mib": 9.0, "microseconds_a_token": cost}
        for changed, cost in (
            ({}, 100.0),
            ({"chunk": 4}, 80.0),
            ({"chunk": 1}, 120.0),
            ({"rows": 16}, 110.0),  # two of a kind are no series
        )
    ]
    results.save("linear", linear, "a laptop")
    page = benchmarks("train_page").render(results)
    assert "| full: examples/s, times torch's (1.3 is aimed at) | 1.20 | ≥ 1 | pass |" in page
    assert "| LoRA: examples/s, times torch's (1.3 is aimed at) | 0.90 | ≥ 1 | **miss** |" in page
    assert "| full: peak memory, times torch's | 0.50 | ≤ 1 | pass |" in page
    assert "| LoRA: peak memory, times torch's | 1.50 | ≤ 1 | **miss** |" in page
    assert "| full: time of chunks, times one big batch's | 1.50 | ≤ 1.45 | **miss** |" in page
    assert "| full: temporaries of chunks, times one big batch's | 0.200 | ≤ 0.25 | pass |" in page
    assert "| LoRA: temporaries of chunks, times one big batch's | not measured | ≤ 0.25 |  |" in page
    drawn = [
        line.split(" | ")[1:4] + line.rstrip(" |").split(" | ")[-1:]
        for line in page.splitlines()
        if "| chunks |" in line
    ]
    assert drawn[-3:] == [["8", "4", "2", "1.00"], ["8", "2", "4", "1.25"], ["8", "1", "8", "1.50"]]
    assert "| batch |" not in page


def test_interleaved_programs_run_equally_often(benchmarks):
    measure, calls = benchmarks("measure"), {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    times = measure.interleave({name: lambda name=name: count(name) for name in calls}, 0, min_rounds=4)
    assert calls == {"a": 5, "b": 5}  # one of them to compile
    assert [len(rounds) for rounds in times.values()] == [4, 4]
    assert measure.ratio({"a": [2.0, 6.0, 9.0], "b": [1.0, 2.0, 9.0]}, "a", "b") == 2.0
