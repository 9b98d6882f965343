"""Every shipped experiment can be read, and its model built, if only as shapes."""

from pathlib import Path

import numpy as np
import pytest

from ega_jax.models import PRESETS
from ega_jax.models.backbones import backbone_of
from ega_jax.training.config import load_experiment
from ega_jax.training.setup import functional_model

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_abstractly(path):
    config = load_experiment(path)
    functional = functional_model(config, PRESETS[config.model.preset])
    assert set(functional.axes) == set(functional.parameters)


def test_the_7b_has_as_many_parameters_as_published():
    config = load_experiment(Path(__file__).parents[1] / "configs" / "llava_onevision_7b.py")
    preset = PRESETS[config.model.preset]
    functional = functional_model(config, preset)
    held = sum(int(np.prod(leaf.shape)) for leaf in functional.parameters.values())
    # Published, but read by no embedding and so never held: the language model's head and the tower's last norm.
    head = preset.text.vocab_size * preset.text.hidden_size
    last_norm = 2 * preset.vision.hidden_size
    assert held + head + last_norm == 8_030_807_584  # the sum over the published checkpoint's 765 tensors


@pytest.mark.parametrize("path", [path for path in CONFIGS if "glyphs" in path.stem], ids=lambda path: path.stem)
def test_the_largest_pictures_of_glyphs_fit(path):
    config = load_experiment(path)
    preset = PRESETS[config.model.preset]
    largest = backbone_of(preset.model_type).layout(preset.image).measure([(96, 96)])  # a sheet of three by three
    assert largest.units <= config.data.image_buckets[-1]
    assert largest.tokens < config.data.token_buckets[-1]
