"""What of a run's state exists, what a checkpoint keeps of it, and that it comes back: with adapters above all."""

import dataclasses
import json
import os
import re
import shutil
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ega_jax.data.mmeb import read_train
from ega_jax.embedder import Embedder
from ega_jax.errors import BadInputError
from ega_jax.models import PRESETS, LoraConfig, build, load_config, save
from ega_jax.training.checkpoint import Checkpoints
from ega_jax.training.config import MeshSettings, ModelSettings, TrainConfig
from ega_jax.training.progress import Progress
from ega_jax.training.setup import functional_model, make_setup, starting_parameters, write_model_directory
from ega_jax.training.sharding import make_mesh
from ega_jax.training.state import abstract_state_of, restore_parameters, restore_state
from ega_jax.training.train import SCORE, texts_of, train

from ..colours import write_colours
from ..micro import config as micro

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]

LORA = LoraConfig(rank=4, alpha=8.0, paths=(r"language_model/.*_proj", "projector/"))


@pytest.fixture(scope="module")
def subsets(tmp_path_factory):
    directory = write_colours(tmp_path_factory.mktemp("colours") / "data", rows=16)
    return [read_train(directory, "Name")]


@pytest.fixture(scope="module")
def published(subsets, tmp_path_factory):
    """A model directory with weights, as one would download."""
    directory = tmp_path_factory.mktemp("published") / "model"
    write_model_directory(micro, directory, lambda: texts_of(subsets))
    written = directory.with_name("weights")
    save(build(load_config(directory), rngs=nnx.Rngs(3)), written)
    for file in written.glob("*.safetensors"):
        shutil.copyfile(file, directory / file.name)
    return directory


@pytest.fixture(scope="module")
def config(published) -> TrainConfig:
    model = dataclasses.replace(micro.model, weights=published, lora=LORA, trained=("image_newline",))
    return dataclasses.replace(
        micro,
        steps=4,
        model=model,
        data=dataclasses.replace(micro.data, batch_size=8, token_buckets=(64,), image_buckets=(5,)),
        checkpoint=dataclasses.replace(micro.checkpoint, every=2),
    )


def stop(setup, parameters):
    os.kill(os.getpid(), signal.SIGTERM)
    return {SCORE: 0.0}


@pytest.fixture(scope="module")
def alone(config, subsets, tmp_path_factory):
    """A run of four steps, and what it said."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    notes = []

    class Listening(Progress):
        def note(self, message):
            notes.append(message)

    train(config, run_dir, subsets, progress=Listening())
    return run_dir, notes


def state_of(run_dir, config):
    setup = make_setup(config, run_dir / "model")
    with Checkpoints(run_dir / "checkpoints", config.checkpoint) as checkpoints:
        return jax.tree.map(np.asarray, restore_state(config, setup, checkpoints))


def bytes_of(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_only_what_is_trained_has_an_optimizer_state():
    """In bytes, at the size of the 7B, from shapes alone."""
    model = ModelSettings(preset="llava_onevision_7b", dtype="bfloat16", lora=LoraConfig(rank=16))
    whole = TrainConfig(steps=1, model=model)
    functional = functional_model(whole, PRESETS["llava_onevision_7b"])
    state = abstract_state_of(whole, SimpleNamespace(functional=functional, mesh=make_mesh(MeshSettings())))
    hidden, keys, wide, layers = 3584, 512, 18944, 28
    adapters = layers * 16 * (2 * (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + wide))
    assert bytes_of(state["trained"]) == 4 * adapters == 161_480_704
    counters = 2 * 4  # AdamW's, and the schedule's
    assert bytes_of(state["optimizer"]) == 2 * 4 * adapters + counters
    # The rest in bfloat16 but for its vectors: 2 bytes a parameter, and not the 16 of training it.
    frozen = sum(leaf.size for leaf in state["frozen"].values())
    assert frozen == 8_030_807_584 - 152128 * 3584 - 2 * 1152  # as published, without head and last norm
    assert 2 * frozen < bytes_of(state["frozen"]) < 2.01 * frozen


def test_it_says_what_is_trained_before_it_trains(alone):
    _, notes = alone
    table = next(note for note in notes if note.startswith("part"))
    assert re.search(r"language_model +adapter +1 +14 ", table)
    assert re.search(r"vision_tower +frozen ", table)
    assert re.search(r"image_newline +trained +1 +1 ", table)


def test_only_adapters_and_chosen_parameters_move(alone, config, published):
    run_dir, _ = alone
    state = state_of(run_dir, config)
    setup = make_setup(config, run_dir / "model")
    start = jax.tree.map(np.asarray, starting_parameters(config, setup))
    assert {path for path in start if "/lora/" in path} | {"image_newline"} == set(state["trained"])
    for path, value in state["frozen"].items():
        np.testing.assert_array_equal(value, start[path], err_msg=path)
    still = [path for path, value in state["trained"].items() if np.array_equal(value, start[path])]
    assert not still


def test_a_checkpoint_holds_no_frozen_weights(alone, config, subsets, tmp_path):
    run_dir, _ = alone

    def size(directory):
        return sum(file.stat().st_size for file in (directory / "checkpoints" / "4").rglob("*") if file.is_file())

    whole = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, save_frozen=True, every=4))
    train(whole, tmp_path / "run", subsets)
    frozen = bytes_of(state_of(tmp_path / "run", whole)["frozen"])
    assert size(tmp_path / "run") - size(run_dir) > 0.5 * frozen  # they are compressed
    jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path / "run", whole), state_of(run_dir, config))


def test_stopped_and_started_again_it_is_the_run_left_alone(alone, config, subsets, tmp_path):
    run_dir, _ = alone
    stopping = dataclasses.replace(config, validation=dataclasses.replace(config.validation, every=2))
    first = train(stopping, tmp_path / "run", subsets, validate=stop)
    assert (first.steps, first.stopped_by) == (2, "SIGTERM")
    assert train(stopping, tmp_path / "run", subsets).steps == 4
    jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path / "run", config), state_of(run_dir, config))


def test_an_embedder_reads_it_and_what_it_began_with(alone, config, published):
    run_dir, _ = alone
    items = [{"text": "a purple thing"}, {"text": "red"}]
    found = Embedder.from_pretrained(run_dir).encode(items)
    start = Embedder.from_pretrained(run_dir, untrained=True).encode(items)
    plain = dataclasses.replace(config, mesh=MeshSettings(), model=dataclasses.replace(micro.model, weights=published))
    setup = make_setup(plain, published)
    np.testing.assert_allclose(start, Embedder.of(setup, starting_parameters(plain, setup)).encode(items), atol=1e-6)
    assert np.abs(found - start).max() > 1e-3


def test_other_frozen_weights_are_not_taken_for_the_old_ones(alone, config, tmp_path):
    run_dir, _ = alone
    moved = tmp_path / "moved"
    shutil.copytree(config.model.weights, moved)
    same = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=moved))
    state_of(run_dir, same)
    changed = build(load_config(moved), rngs=nnx.Rngs(3))
    changed.vision_tower.position_embedding[...] += 1e-6
    (moved / "model.safetensors").unlink()
    save(changed, moved)
    with pytest.raises(BadInputError, match="not the weights that the run began with, vision_tower/position_embedding"):
        state_of(run_dir, same)
    shutil.rmtree(moved)
    with pytest.raises(BadInputError, match=r"moved: .*checkpoints hold only what was trained"):
        state_of(run_dir, same)


def test_frozen_matrices_in_bfloat16_change_no_result_of_products_in_bfloat16(config, subsets, tmp_path):
    def losses(name, frozen_dtype):
        model = dataclasses.replace(config.model, dtype="bfloat16", frozen_dtype=frozen_dtype)
        train(dataclasses.replace(config, steps=2, model=model), tmp_path / name, subsets)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert losses("narrow", None) == losses("wide", "float32")

    # What is merged or exported is read whole, after it was compared as it is held.
    narrow = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))
    setup = make_setup(narrow, tmp_path / "narrow" / "model")
    with Checkpoints(tmp_path / "narrow" / "checkpoints", narrow.checkpoint) as checkpoints:
        held = restore_parameters(narrow, setup, checkpoints)
        exact = restore_parameters(narrow, setup, checkpoints, exact=True)
    published = starting_parameters(config, setup)
    for path in ("vision_tower/patch_embedding/kernel", "language_model/decoder/layers/mlp/up_proj/kernel"):
        assert held[path].dtype == jnp.bfloat16
        np.testing.assert_array_equal(exact[path], published[path])
