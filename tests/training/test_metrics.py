"""metrics.jsonl holds every step once, whatever happened to the process that wrote it."""

import json
import math
import sys
import types

import pytest

from ega_jax.errors import BadInputError
from ega_jax.training.metrics import JsonLines, make_writers


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_run_writes_its_steps_over_those_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path)
    for step in range(1, 8):
        writer.write(step, {"loss": 1 / step})
    writer.close()
    path.write_text(path.read_text() + '{"step": 8, "lo')  # the line that a kill cut short
    writer = JsonLines(path, keep_to=5)
    writer.write(6, {"loss": 6.0})
    writer.close()
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 4, 5, 6]
    assert lines(path)[-1]["loss"] == 6.0


def test_a_new_run_starts_a_new_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3}\n')
    JsonLines(path).close()
    assert path.read_text() == ""


def test_what_json_cannot_say_is_null(tmp_path):
    writer = JsonLines(tmp_path / "metrics.jsonl")
    writer.write(1, {"loss": math.nan, "lr": math.inf, "grad_norm": 2.0})
    writer.close()
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "lr": None, "grad_norm": 2.0}]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    writers = make_writers(tmp_path, ("tensorboard",), None)
    for writer in writers:
        writer.write(3, {"loss": 0.5})
        writer.close()
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5}]


@pytest.fixture
def wandb(monkeypatch):
    """What stands for the package; records how it is used."""
    calls = []

    class Run:
        def log(self, metrics, step):
            calls.append(("log", metrics, step))

        def finish(self):
            calls.append(("finish",))

    def init(**options):
        calls.append(("init", options))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return calls


def test_weights_and_biases_gets_the_same_numbers_and_one_run_for_all_restarts(tmp_path, wandb):
    (tmp_path / "config.json").write_text('{"steps": 7}')
    for resumed_from, step in ((None, 3), (3, 4)):
        for writer in make_writers(tmp_path, ("wandb",), resumed_from):
            writer.write(step, {"loss": 0.5})
            writer.close()
    first, second = (call[1] for call in wandb if call[0] == "init")
    assert first == second
    assert (first["name"], first["resume"], first["config"]) == (tmp_path.name, "allow", {"steps": 7})
    assert len(first["id"]) == 16
    assert [call[1:] for call in wandb if call[0] == "log"] == [({"loss": 0.5}, 3), ({"loss": 0.5}, 4)]
    assert [call[0] for call in wandb] == ["init", "log", "finish"] * 2


def test_weights_and_biases_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadInputError, match="pip install 'ega-jax"):
        make_writers(tmp_path, ("wandb",), None)
