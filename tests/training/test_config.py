"""Settings are checked when they are built, and survive the round trip through a run directory."""

import dataclasses
import json

import pytest

from ega_jax.errors import BadInputError
from ega_jax.training.config import (
    DataSettings,
    MeshSettings,
    TrainConfig,
    ValidationSettings,
    from_json,
    load_experiment,
    to_json,
)

from ..micro import config


def test_json_round_trip(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(to_json(config))
    assert from_json(path) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["optimizer"].update(learning_rte=1), r"optimizer: unknown key 'learning_rte'.*'learning_rate'"),
        (lambda c: c.update(stepz=1), r"unknown key 'stepz'; did you mean 'steps'"),
        (lambda c: c.update(steps="many"), r"steps: .*integer"),
        (lambda c: c["loss"].update(combine="sum"), r"loss.combine"),
        (lambda c: c.pop("steps"), r"steps"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path, change, message):
    value = json.loads(to_json(config))
    change(value)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(value))
    with pytest.raises(BadInputError, match=message) as caught:
        from_json(path)
    assert str(path) in str(caught.value)


def test_broken_json_and_no_file(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": 1')
    with pytest.raises(BadInputError, match=r"config\.json"):
        from_json(tmp_path / "config.json")
    with pytest.raises(BadInputError, match="is this a run directory"):
        from_json(tmp_path / "nowhere" / "config.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(steps=0), "steps must be positive"),
        (lambda: TrainConfig(epochs=0), "epochs must be positive"),
        (lambda: TrainConfig(), "either steps or epochs, got steps None and epochs None"),
        (lambda: TrainConfig(steps=1, epochs=1), "either steps or epochs, got steps 1 and epochs 1"),
        (lambda: TrainConfig(epochs=1, data=DataSettings(weights={"Name": 2.0})), "data.weights"),
        (lambda: TrainConfig(steps=1, seed=-1), "seed"),
        (lambda: DataSettings(batch_size=10, sub_batch_size=4), "not a multiple"),
        (lambda: DataSettings(token_buckets=(64, 32)), "ascending"),
        (lambda: DataSettings(chunk_size=0), "chunk_size must be positive"),
        (lambda: ValidationSettings(every=0), "every must be positive"),
        (lambda: DataSettings(weights={"Name": 0.0}), "weights must be positive, but that of 'Name' is 0.0"),
        (lambda: MeshSettings(data=-1, fsdp=-1), "one of them may be -1"),
        (lambda: dataclasses.replace(config.loss, temperature=0.0), "temperature must be positive"),
        (lambda: dataclasses.replace(config.loss, beta=-1.0), "must not be negative"),
        (lambda: dataclasses.replace(config.optimizer, warmup=1.0), "share of all steps"),
    ],
)
def test_settings_are_checked_when_built(make, message):
    with pytest.raises(BadInputError, match=message):
        make()


def test_an_experiment_is_a_python_file(tmp_path):
    with pytest.raises(BadInputError, match="no such config file"):
        load_experiment(tmp_path / "absent.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(BadInputError, match="must bind `config = TrainConfig"):
        load_experiment(tmp_path / "empty.py")
