"""The loop: resumed runs equal uninterrupted ones, and what goes wrong is told."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from ega_jax.data.mmeb import find_subsets, read_train
from ega_jax.errors import BadInputError
from ega_jax.training.checkpoint import Checkpoints
from ega_jax.training.finite import TrainingError
from ega_jax.training.interrupt import StoppedError
from ega_jax.training.setup import make_setup
from ega_jax.training.state import abstract_state_of
from ega_jax.training.train import SCORE, train

from ..colours import write_colours
from ..kill_and_resume import TIMINGS, compare
from ..micro import config

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def subsets(tmp_path_factory):
    directory = write_colours(tmp_path_factory.mktemp("colours") / "data")
    return [read_train(directory, info.name) for info in find_subsets(directory, "train")]


def metrics_of(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def state_of(run_dir, config):
    setup = make_setup(config, run_dir / "model")
    with Checkpoints(run_dir / "checkpoints", config.checkpoint) as checkpoints:
        return jax.tree.map(np.asarray, checkpoints.restore(abstract_state_of(config, setup)))


def fake_validation(setup, parameters):
    return {SCORE: float(parameters["image_newline"][0])}


def test_stopped_by_a_signal_and_started_again_is_the_run_left_alone(subsets, tmp_path):
    train(config, tmp_path / "alone", subsets, validate=fake_validation)

    def interrupt(setup, parameters):
        os.kill(os.getpid(), signal.SIGTERM)
        return fake_validation(setup, parameters)

    first = train(config, tmp_path / "stopped", subsets, validate=interrupt)
    assert (first.steps, first.stopped_by) == (6, "SIGTERM")

    def cut_short(setup, parameters):
        raise StoppedError("SIGTERM")

    second = train(config, tmp_path / "stopped", subsets, validate=cut_short)
    assert (second.steps, second.stopped_by) == (12, "SIGTERM")
    third = train(config, tmp_path / "stopped", subsets, validate=fake_validation)
    assert (third.steps, third.stopped_by) == (12, None)

    assert metrics_of(tmp_path / "stopped") == metrics_of(tmp_path / "alone")
    jax.tree.map(
        np.testing.assert_array_equal, state_of(tmp_path / "stopped", config), state_of(tmp_path / "alone", config)
    )
    lines = metrics_of(tmp_path / "alone")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if SCORE in line] == [6, 12]
    for name in ("grad_norm", "lr", "hardness/amplification_mean", "hardness/amplification_max", "hardness/violations"):
        assert all(np.isfinite(line[name]) for line in lines if "loss" in line)
    again = train(config, tmp_path / "alone", subsets, validate=fake_validation)
    assert again.steps == 12, "a finished run has nothing left to do"


def test_epochs_end_when_every_row_was_seen(subsets, tmp_path):
    epochs = dataclasses.replace(config, steps=None, epochs=2)
    seen = []

    def observe(setup, parameters, batches, done):
        seen.append((len(batches), done))

    summary = train(epochs, tmp_path / "run", [subsets[0].take(range(13))], observe=observe)
    assert seen == [(2, 2)], "without validation, at the end"
    (environment,) = map(json.loads, (tmp_path / "run" / "environment.jsonl").read_text().splitlines())
    assert (environment["from_step"], environment["to_step"]) == (0, 2)
    again = train(epochs, tmp_path / "run", [subsets[0].take(range(13))], observe=observe)
    assert again.steps == 2
    assert len(seen) == 1, "nothing was trained"
    assert summary.steps == 2, "a batch of 16 holds all 13 rows"
    assert all(np.isfinite(line["loss"]) for line in metrics_of(tmp_path / "run"))


def test_killed_without_warning_it_loses_nothing(tmp_path):
    kills = compare(tmp_path, kills=2, seed=1)
    assert sum(kills.values()) == 2


def test_another_experiment_is_not_trained_into_the_same_directory(subsets, tmp_path):
    with pytest.raises(BadInputError, match="give FIRST:LAST"):
        train(dataclasses.replace(config, steps=2), tmp_path / "run", subsets, profile_steps="3:2")
    train(dataclasses.replace(config, steps=2), tmp_path / "run", subsets, profile_steps="2:9")
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb")), "traced up to the end of the run"
    other = dataclasses.replace(config, steps=2, loss=dataclasses.replace(config.loss, beta=3.0))
    with pytest.raises(BadInputError, match=r"holds another experiment: loss\.beta was 1\.0 and is now 3\.0"):
        train(other, tmp_path / "run", subsets)


def test_numbers_that_are_not_finite_stop_the_run_and_reach_no_checkpoint(subsets, tmp_path):
    wild = dataclasses.replace(
        config,
        log_every=100,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e16, warmup=0.0, gradient_clip=1e30),
        checkpoint=dataclasses.replace(config.checkpoint, every=1),
    )
    with pytest.raises(TrainingError, match=r"at step \d+, .*Lower optimizer.learning_rate") as caught:
        train(wild, tmp_path / "run", subsets)
    with Checkpoints(tmp_path / "run" / "checkpoints", wild.checkpoint) as checkpoints:
        assert f"at step {checkpoints.latest + 1}," in str(caught.value)


@pytest.mark.parametrize(("preset", "image_buckets"), [("micro", (0, 5)), ("micro_qwen2_vl", (0, 16))])
def test_it_learns(subsets, tmp_path, preset, image_buckets):
    longer = dataclasses.replace(
        config,
        steps=60,
        log_every=5,
        model=dataclasses.replace(config.model, preset=preset),
        data=dataclasses.replace(config.data, image_buckets=image_buckets),
        checkpoint=dataclasses.replace(config.checkpoint, every=60),
    )
    train(longer, tmp_path / "run", [subset for subset in subsets if subset.info.name == "Name"])
    losses = [line["loss"] for line in metrics_of(tmp_path / "run") if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
