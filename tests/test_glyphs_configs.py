"""Each shipped tiny experiment learns: after a few steps, retrieval beats that of its own random weights."""

import dataclasses
from pathlib import Path

import pytest

from ega_jax.data.glyphs import prepare
from ega_jax.data.mmeb import read_eval, read_train
from ega_jax.embedder import Embedder
from ega_jax.evaluation import evaluate
from ega_jax.training.config import load_experiment
from ega_jax.training.train import train

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]

CONFIGS = Path(__file__).parents[1] / "configs"
SUBSET = "Kind"  # which of some twenty kinds of characters is on the picture?


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    settings = {"train_rows": 400, "validation_rows": 60, "test_rows": 20, "pool_size": 60}
    return prepare(tmp_path_factory.mktemp("glyphs") / "data", **settings)


@pytest.mark.parametrize("name", ["glyphs", "glyphs_qqmm"])
def test_learns_more_than_its_random_weights_know(directory, tmp_path, name):
    config = load_experiment(CONFIGS / f"{name}.py")
    config = dataclasses.replace(
        config,
        steps=60,
        model=dataclasses.replace(config.model, vocab_size=384),
        data=dataclasses.replace(
            config.data, directory=str(directory), batch_size=16, sub_batch_size=16, weights={}, threads=1
        ),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=2e-3),
        validation=dataclasses.replace(config.validation, every=None),
    )
    run = tmp_path / "run"
    train(config, run, [read_train(directory, SUBSET)])
    held_out = [read_eval(directory, SUBSET, "validation")]

    def hit_at_1(embedder):
        return evaluate(embedder.encode, held_out).means["all"].scores.hit_at_1

    before, after = (hit_at_1(Embedder.from_pretrained(run, untrained=untrained)) for untrained in (True, False))
    assert after > before + 0.1, (before, after)
