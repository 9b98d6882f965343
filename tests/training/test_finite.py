"""A step whose numbers are not finite changes nothing, and is told of with all that helps to find out why."""

import dataclasses
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from ega_jax.data.mmeb import find_subsets, read_train
from ega_jax.training import train as loop
from ega_jax.training.checkpoint import Checkpoints
from ega_jax.training.finite import TrainingError, finite_metrics, likely_module
from ega_jax.training.progress import Progress
from ega_jax.training.setup import make_setup
from ega_jax.training.state import abstract_state_of
from ega_jax.training.step import to_global

from ..colours import write_colours
from ..micro import config

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def subsets(tmp_path_factory):
    directory = write_colours(tmp_path_factory.mktemp("colours") / "data")
    return [read_train(directory, info.name) for info in find_subsets(directory, "train")]


@pytest.fixture
def train(subsets, tmp_path, monkeypatch):
    """Trains 12 steps, of which some see a picture of NaN; returns the steps told of, the notes and the run."""

    def run(poisoned, on_non_finite):
        one_program = dataclasses.replace(config.data, token_buckets=(128,), image_buckets=(5,))
        settings = dataclasses.replace(
            config, optimizer=dataclasses.replace(config.optimizer, on_non_finite=on_non_finite)
        )
        settings = dataclasses.replace(settings, log_every=4, data=one_program)
        steps = iter(range(1, 13))

        def poison(batch, mesh):
            batch = to_global(batch, mesh)
            if next(steps) in poisoned:
                bad = {
                    name: x * jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else x
                    for name, x in batch["queries"].items()
                }
                batch["queries"] = bad
            return batch

        monkeypatch.setattr(loop, "to_global", poison)
        notes = io.StringIO()
        loop.train(settings, tmp_path / "run", subsets, progress=Progress(Console(file=notes, width=1000)))
        return settings, notes.getvalue()

    return run


def test_skipped_steps_leave_the_weights_and_are_told_of(train, tmp_path):
    settings, notes = train({6, 7}, "skip")
    told = [json.loads(line) for line in (tmp_path / "run" / "non_finite.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told] == [6, 7]
    assert all(len(line["rows"]) == 16 for line in told)
    assert "loss is nan at step 6, in the forward pass" in notes
    assert told[0]["rows"][0] in notes
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped_steps"] for line in lines] == [0, 2, 0]
    setup = make_setup(settings, tmp_path / "run" / "model")
    with Checkpoints(tmp_path / "run" / "checkpoints", settings.checkpoint) as checkpoints:
        state = checkpoints.restore(abstract_state_of(settings, setup))
    assert int(state["step"]) == 12
    assert all(np.isfinite(array).all() for array in state["trained"].values())


def test_it_stops_where_that_is_set(train, tmp_path):
    with pytest.raises(TrainingError, match=r"loss is nan at step 6, .*rows .*on_non_finite=skip"):
        train({6}, "stop")
    with Checkpoints(tmp_path / "run" / "checkpoints", config.checkpoint) as checkpoints:
        assert checkpoints.latest == 4
    train(set(), "skip")  # goes on from there
    with Checkpoints(tmp_path / "run" / "checkpoints", config.checkpoint) as checkpoints:
        assert checkpoints.latest == 12


def test_skipping_ends_where_it_does_not_help(train):
    with pytest.raises(TrainingError, match=r"at step 10, .*as in the 9 steps before"):
        train(set(range(1, 13)), "skip")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({}, "though loss and gradient of every module are finite"),
        ({"projector/fc/kernel": (1, 1)}, "likely in the backward pass of projector"),
        ({"vision_tower/layers/fc/kernel": (1, 2, 0)}, "likely in the backward pass of vision_tower/layers, layer 2"),
        (
            {"language_model/decoder/layers/fc/bias": (2, 1), "vision_tower/layers/fc/kernel": (0, 0, 0)},
            "likely in the backward pass of language_model/decoder/layers, layer 3",
        ),
    ],
)
def test_the_likely_module_is_the_one_nearest_the_loss(broken, said):
    gradients = {
        "language_model/decoder/layers/fc/bias": np.ones((4, 3), np.float32),
        "projector/fc/kernel": np.ones((2, 2), np.float32),
        "vision_tower/layers/fc/kernel": np.ones((3, 4, 5), np.float32),
    }
    for path, place in broken.items():
        gradients[path][place] = np.inf
    found = finite_metrics(jnp.int32(0), {path: jnp.asarray(array) for path, array in gradients.items()})
    assert likely_module({name: float(value) for name, value in found.items()}) == said


def test_embeddings_come_before_gradients():
    found = finite_metrics(jnp.int32(3), {"projector/fc/kernel": jnp.full((2, 2), jnp.nan)})
    assert likely_module({name: float(value) for name, value in found.items()}) == (
        "in the forward pass (3 embeddings are not finite)"
    )
