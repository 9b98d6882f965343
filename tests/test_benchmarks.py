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


def test_interleaved_programs_run_equally_often(benchmarks):
    measure, calls = benchmarks("measure"), {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    times = measure.interleave({name: lambda name=name: count(name) for name in calls}, 0, min_rounds=4)
    assert calls == {"a": 5, "b": 5}  # one of them to compile
    assert [len(rounds) for rounds in times.values()] == [4, 4]
    assert measure.ratio({"a": [2.0, 6.0, 9.0], "b": [1.0, 2.0, 9.0]}, "a", "b") == 2.0
