"""Which parameters are trained and decayed, and how the learning rate moves."""

import numpy as np
import pytest

from ega_jax.models import build
from ega_jax.models.functional import Functional
from ega_jax.training.config import OptimizerSettings
from ega_jax.training.optimizer import decayed, make_optimizer


@pytest.fixture(scope="module")
def parameters():
    return Functional(lambda rngs: build("llava_onevision_tiny", rngs=rngs)).parameters


def test_decay_is_for_kernels_alone(parameters):
    chosen = decayed(parameters)
    assert set(chosen) == set(parameters)
    assert {path.rsplit("/", 1)[-1] for path, yes in chosen.items() if yes} == {"kernel"}
    assert not chosen["image_newline"]
    assert not chosen["language_model/embed_tokens/embedding"]
    assert all(chosen[path] for path in parameters if path.endswith("kernel"))


def test_learning_rate_rises_and_falls():
    settings = OptimizerSettings(learning_rate=1e-2, warmup=0.1, final=0.05)
    _, learning_rate = make_optimizer(settings, steps=200)
    rates = np.array([float(learning_rate(step)) for step in range(200)])
    assert rates[0] > 0, "the first update must not be lost"
    np.testing.assert_allclose(rates[19], 1e-2, rtol=1e-5)
    assert (np.diff(rates[:20]) > 0).all()
    assert (np.diff(rates[20:]) < 0).all()
    np.testing.assert_allclose(rates[-1], 5e-4, rtol=1e-3)
    _, constant = make_optimizer(OptimizerSettings(learning_rate=1e-2, warmup=0, final=1.0), steps=50)
    np.testing.assert_allclose([float(constant(step)) for step in range(50)], 1e-2, rtol=1e-6)
