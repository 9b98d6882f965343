"""Weights out: what a run has learned, as transformers loads it whole, with equal embeddings."""

import json
import shutil
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file

import ega_jax.models
from ega_jax import Embedder
from ega_jax.cli import BAD_INPUT, DONE, run
from ega_jax.conversion.from_hf import from_hf
from ega_jax.conversion.runs import read_run
from ega_jax.conversion.to_hf import complete_processor, to_hf
from ega_jax.errors import BadInputError
from ega_jax.models.recipe import read_recipe
from ega_jax.training.config import ModelSettings, TrainConfig
from ega_jax.training.setup import make_setup, starting_parameters

from .. import micro
from ..colours import COLOURS, write_colours
from .published import write_published
from .reference import embed_by_card, loaded

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]

MICRO = micro.__file__
EMBEDDINGS = {"rtol": 0, "atol": 2e-6}


def tensors_of(directory):
    return {name: value for file in directory.glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("colours") / "data", rows=16)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model directory in bfloat16, with a head of its own."""
    directory = tmp_path_factory.mktemp("base")
    from_hf(write_published(directory / "published", dtype=torch.bfloat16), directory / "base")
    return directory / "base"


def train(data, run_dir, *options):
    arguments = ["train", MICRO, "--run-dir", str(run_dir), "--data.directory", str(data), "--steps", "3"]
    arguments += ["--data.subsets", "Name", "--validation.every", "None", "--data.token-buckets", "64"]
    assert run([*arguments, *options]) == DONE
    return run_dir


@pytest.fixture(scope="module")
def trained(data, base, tmp_path_factory):
    run_dir = train(data, tmp_path_factory.mktemp("runs") / "micro", "--model.weights", str(base))
    assert run(["eval", str(run_dir), "--subsets", "Name", "--no-untrained"]) == DONE
    return run_dir


@pytest.fixture(scope="module")
def items(data):
    pictures = [Image.open(data / "images" / f"{name}_{k}.png") for k, name in enumerate(COLOURS)]
    pairs = [("Which colour is it?\n", [picture]) for picture in pictures[:4]]
    return [*pairs, ("A picture.", pictures[4:6]), ("red green blue 123", []), ("\n two lines\n", [])]


def ours(directory, items):
    return Embedder.from_pretrained(directory).encode([{"text": text, "images": images} for text, images in items])


def test_transformers_gives_the_same_embeddings(trained, base, items, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(["convert", "to-hf", str(trained), str(out), "--dtype", "float32", "--max-shard-size", "30KB"]) == DONE
    assert len(list(out.glob("*.safetensors"))) > 1
    model = loaded(out)
    assert model.dtype == torch.float32
    expected = ours(trained, items)
    assert np.abs(expected - ours(base, items)).max() > 0.01  # it has learned something
    np.testing.assert_allclose(embed_by_card(out, items, monkeypatch), expected, **EMBEDDINGS)
    again, learned = nnx.state(ega_jax.models.load(out)), nnx.state(read_run(trained).model)
    jax.tree.map(np.testing.assert_array_equal, again, learned)
    head = "language_model.lm_head.weight"
    np.testing.assert_array_equal(tensors_of(out)[head], tensors_of(base)[head].astype(np.float32))
    assert json.loads((out / "tokenizer.json").read_text()) == json.loads((base / "tokenizer.json").read_text())


def test_the_card_tells_recipe_and_scores(trained, tmp_path):
    to_hf(trained, tmp_path / "out", base_name="someone/base")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert 'base_model: "someone/base"' in card
    assert r'"<|im_start|>user\n<image>\nTEXT<|im_end|>\n<|im_start|>assistant\n"' in card
    assert "| steps | 3 of 3 |" in card
    results = json.loads((trained / "results.json").read_text())
    assert f"{100 * results['means']['all']['hit@1']:.1f}" in card
    assert "| Name |" in card
    assert "α" in card


def test_dtype_is_that_of_the_base_unless_another_is_asked_for(trained, tmp_path):
    to_hf(trained, tmp_path / "kept")
    to_hf(trained, tmp_path / "asked", dtype="float32")
    kept, asked = tensors_of(tmp_path / "kept"), tensors_of(tmp_path / "asked")
    assert {value.dtype for value in kept.values()} == {np.dtype(ml_dtypes.bfloat16)}
    for name, value in asked.items():
        np.testing.assert_array_equal(kept[name], value.astype(ml_dtypes.bfloat16), err_msg=name)
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["dtype"] == "bfloat16"
    assert loaded(tmp_path / "kept").dtype == torch.bfloat16


def test_in_and_out_again_is_exact_where_nothing_was_trained(data, base, tmp_path):
    run_dir = train(
        data,
        tmp_path / "run",
        "--model.weights",
        str(base),
        "--model.frozen",
        ".*_tower",
        "projector",
        "image_newline",
        "language_model/(?!norm)",
        "--optimizer.learning-rate",
        "1e-30",
    )
    to_hf(run_dir, tmp_path / "out")
    before, after = tensors_of(base), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        assert after[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize(
    "options",
    [
        (
            *("--model.max-tiles", "2", "--data.token-buckets", "128"),
            *("--model.system-prompt", "Find the colour.", "--loss.matryoshka-dimensions", "4", "8"),
        ),
        ("--model.preset", "micro_qwen2_vl", "--data.image-buckets", "0", "16", "--data.token-buckets", "128"),
    ],
    ids=["llava_onevision", "qwen2_vl"],
)
def test_a_run_from_random_weights_is_whole_too(options, data, items, tmp_path, monkeypatch):
    run_dir = train(data, tmp_path / "run", *options)
    to_hf(run_dir, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    model = loaded(tmp_path / "out")
    np.testing.assert_array_equal(model.lm_head.weight.detach(), model.get_input_embeddings().weight.detach())
    np.testing.assert_allclose(embed_by_card(tmp_path / "out", items, monkeypatch), ours(run_dir, items), **EMBEDDINGS)
    # The directory alone, without the run's settings, has the run's prompt and widths.
    recipe = read_recipe(tmp_path / "out")
    assert recipe == read_run(run_dir).setup.recipe
    assert (recipe.system_prompt is None) == (recipe.matryoshka_dimensions == ()) == ("micro_qwen2_vl" in options)
    alone = TrainConfig(steps=1, model=ModelSettings(weights=tmp_path / "out", dtype="float32"))
    setup = make_setup(alone, tmp_path / "out")
    pairs = [{"text": text, "images": images} for text, images in items]
    vectors = Embedder.of(setup, starting_parameters(alone, setup)).encode(pairs)
    np.testing.assert_allclose(vectors, ours(run_dir, items), **EMBEDDINGS)


def test_the_base_may_move_but_must_be_there(trained, base, tmp_path, capsys):
    moved = shutil.copytree(trained, tmp_path / "run")
    config = json.loads((moved / "config.json").read_text())
    config["model"]["weights"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    assert run(["convert", "to-hf", str(moved), str(tmp_path / "out")]) == BAD_INPUT
    assert "or give --base DIR" in capsys.readouterr().err
    assert run(["convert", "to-hf", str(moved), str(tmp_path / "out"), "--base", str(base)]) == DONE
    assert tensors_of(tmp_path / "out").keys() == tensors_of(base).keys()


def test_what_is_no_run_is_told(base, trained, tmp_path):
    with pytest.raises(BadInputError, match=r"not a run directory.*needs no conversion"):
        to_hf(base, tmp_path / "out")
    empty = tmp_path / "run"
    shutil.copytree(trained / "model", empty / "model")
    shutil.copy(trained / "config.json", empty)
    with pytest.raises(BadInputError, match="no checkpoint"):
        to_hf(empty, tmp_path / "out")


def test_the_resolution_goes_along_where_the_base_has_no_preprocessor_file(tmp_path):
    settings = ModelSettings(preset="qqmm_7b", max_pixels=448 * 448)
    config = ega_jax.models.PRESETS["qqmm_7b"].with_resolution(
        max_tiles=None, base_only=False, max_pixels=settings.max_pixels
    )
    trained = SimpleNamespace(config=TrainConfig(steps=1, model=settings), model=SimpleNamespace(config=config))
    complete_processor(trained, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    assert ega_jax.models.load_config(tmp_path).image == config.image
