"""From Hugging Face, 20 steps of LoRA on Glyphs, and back: torch transformers and peft give equal embeddings."""

import json
import re

import numpy as np
import peft
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ega_jax import Embedder
from ega_jax.cli import BAD_INPUT, DONE, run
from ega_jax.conversion.from_hf import from_hf
from ega_jax.data.glyphs import prepare

from .. import micro
from .published import write_published
from .reference import embed_by_card, loaded

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]

EMBEDDINGS = {"rtol": 0, "atol": 2e-6}
EVERYWHERE = ("language_model/.*_proj", "vision_tower/", "projector/")


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data") / "glyphs"
    return prepare(directory, train_rows=24, validation_rows=0, test_rows=2, pool_size=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    from_hf(write_published(directory / "published"), directory / "base")
    return directory / "base"


def train(glyphs, base, run_dir, *options):
    arguments = ["train", micro.__file__, "--run-dir", str(run_dir), "--data.directory", str(glyphs)]
    arguments += ["--model.weights", str(base), "--data.subsets", "GlyphToName", "--validation.every", "None"]
    arguments += ["--data.token-buckets", "256", "--data.image-buckets", "5", "--model.lora.rank", "3"]
    assert run([*arguments, "--model.lora.alpha", "9", *options]) == DONE
    return run_dir


@pytest.fixture(scope="module")
def trained(glyphs, base, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "lora"
    options = ("--model.lora.paths", *EVERYWHERE, "--model.lora.rank-stabilized")
    return train(glyphs, base, run_dir, "--steps", "20", *options)


@pytest.fixture(scope="module")
def items(glyphs):
    pictures = [Image.open(path).convert("RGB") for path in sorted((glyphs / "images").rglob("*.png"))[:40:10]]
    return [*(("What is it?\n", [picture]) for picture in pictures), ("greek small letter alpha", [])]


def ours(directory, items):
    return Embedder.from_pretrained(directory).encode([{"text": text, "images": images} for text, images in items])


@pytest.fixture(scope="module")
def expected(trained, items):
    embedder = Embedder.from_pretrained(trained)
    start = Embedder.from_pretrained(trained, untrained=True)
    sides = [{"text": text, "images": images} for text, images in items]
    vectors = embedder.encode(sides)
    assert np.abs(vectors - start.encode(sides)).max() > 0.01  # it has learned something
    return vectors


def test_merged_adapters_give_the_same_embeddings_in_transformers(
    trained, base, items, expected, tmp_path, monkeypatch
):
    assert run(["convert", "to-hf", str(trained), str(tmp_path / "out")]) == DONE
    loaded(tmp_path / "out")
    np.testing.assert_allclose(embed_by_card(tmp_path / "out", items, monkeypatch), expected, **EMBEDDINGS)
    before, after = (load_file(directory / "model.safetensors") for directory in (base, tmp_path / "out"))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    adapted = r"(language_model|vision_tower).*(_proj|fc[12]|patch_embedding)\.weight|multi_modal_projector.*\.weight"
    assert changed == {name for name in before if re.fullmatch(adapted, name)}


def test_peft_loads_the_adapters_alone(trained, base, items, expected, tmp_path, monkeypatch, recwarn):
    out = tmp_path / "out"
    assert run(["convert", "to-hf", str(trained), str(out), "--adapter"]) == DONE
    assert sum(path.stat().st_size for path in out.glob("*.safetensors")) < 60_000
    model = peft.PeftModel.from_pretrained(loaded(base), out)
    names = {name for name in model.state_dict() if "lora_" in name}
    stored = load_file(out / "adapter_model.safetensors")
    assert {name.replace(".default", "") for name in names} == stored.keys()
    np.testing.assert_allclose(embed_by_card(out, items, monkeypatch), expected, **EMBEDDINGS)
    assert not [str(warning.message) for warning in recwarn if "adapter" in str(warning.message)]
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert "model.language_model.layers.1.mlp.down_proj" in config["target_modules"]


def test_adapters_in_bfloat16_for_a_base_on_the_hub(trained, tmp_path):
    out = tmp_path / "out"
    arguments = ["convert", "to-hf", str(trained), str(out), "--adapter", "--dtype", "bfloat16"]
    assert run([*arguments, "--base-name", "someone/base"]) == DONE
    assert {value.dtype.name for value in load_file(out / "adapter_model.safetensors").values()} == {"bfloat16"}
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/base"
    assert "from_pretrained('someone/base')" in (out / "README.md").read_text(encoding="utf-8")


def test_adapters_that_are_not_all_that_was_trained_are_not_exported_alone(glyphs, base, tmp_path, capsys):
    run_dir = train(glyphs, base, tmp_path / "run", "--steps", "1", "--model.trained", "image_newline")
    assert run(["convert", "to-hf", str(run_dir), str(tmp_path / "out"), "--adapter"]) == BAD_INPUT
    assert "trained image_newline" in capsys.readouterr().err
    assert run(["convert", "to-hf", str(run_dir), str(tmp_path / "out")]) == DONE
