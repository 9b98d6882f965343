"""Whole models take the whole suite by the command line, are killed on the way, and go on where they were."""

import dataclasses
import json

import pytest
from flax import nnx
from safetensors import safe_open

from ega_jax.cli import DONE, run
from ega_jax.data.subsets import SUBSETS
from ega_jax.embedder import Embedder
from ega_jax.evaluation import suite
from ega_jax.models import build, load_config, save
from ega_jax.training.setup import write_model_directory

from .micro import config
from .synthetic_mmeb_eval import sizes, write_mmeb_eval

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]

QUERIES, CANDIDATES, SAVE_EVERY = 2, 3, 64
BEFORE_THE_KILL = 3  # writes to the cache


class Kill(BaseException):
    """Nothing in the package handles it, as nothing handles SIGKILL."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_mmeb_eval(tmp_path_factory.mktemp("mmeb") / "MMEB-eval", QUERIES, CANDIDATES)


@pytest.fixture(params=["micro", "micro_qqmm"])
def model(request, tmp_path):
    directory = tmp_path / request.param
    experiment = dataclasses.replace(
        config, model=dataclasses.replace(config.model, preset=request.param, system_prompt="")
    )
    write_model_directory(experiment, directory, lambda: [*SUBSETS, "Represent it.", "Look at it: question answer"])
    save(build(load_config(directory), rngs=nnx.Rngs(0)), directory)
    return directory


def test_killed_and_gone_on_with(model, data, tmp_path, monkeypatch):
    queries, candidates = sizes(QUERIES, CANDIDATES)
    monkeypatch.setattr(suite, "QUERIES", queries)
    monkeypatch.setattr(suite, "CANDIDATES", candidates)
    encode, encoded = Embedder.encode, []

    def counted(self, sides, **options):
        if len(encoded) == BEFORE_THE_KILL and not resumed:
            raise Kill
        encoded.append(list(sides))
        return encode(self, sides, **options)

    monkeypatch.setattr(Embedder, "encode", counted)
    arguments = ["eval", str(model), "--suite", "mmeb", "--data", str(data), "--batch-size", "64"]
    arguments += ["--save-every", str(SAVE_EVERY)]
    resumed = False
    with pytest.raises(Kill):
        run([*arguments, "--output", str(tmp_path / "killed")])
    assert not (tmp_path / "killed" / "results.json").exists()
    resumed = True
    assert run([*arguments, "--output", str(tmp_path / "killed")]) == DONE

    sides = [side for call in encoded for side in call]
    assert [len(call) for call in encoded[:BEFORE_THE_KILL]] == [SAVE_EVERY] * BEFORE_THE_KILL
    assert len(set(sides)) == len(sides), "what was kept is not encoded again"
    assert len(sides) == vectors_in(tmp_path / "killed" / "vectors")
    results = json.loads((tmp_path / "killed" / "results.json").read_text())
    assert (results["complete"], len(results["subsets"])) == (True, 36)

    # All vectors from the cache, none encoded: the same scores, to the last bit.
    done = len(encoded)
    again = [*arguments, "--output", str(tmp_path / "again"), "--cache", str(tmp_path / "killed" / "vectors")]
    assert run(again) == DONE
    assert len(encoded) == done
    for name in ("results.json", "results_details.jsonl", "results.md"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def vectors_in(directory):
    count = 0
    for path in directory.rglob("*.safetensors"):
        with safe_open(path, "numpy") as shard:
            count += shard.get_slice("vectors").get_shape()[0]
    return count
