"""The Matryoshka loss is the mean of plain losses, in value and gradient, on a mesh and in the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.losses import ega_loss, sharded_ega_loss
from ega_jax.training.config import MeshSettings
from ega_jax.training.matryoshka import matryoshka_loss, truncate
from ega_jax.training.sharding import BATCH, make_mesh

OPTIONS = {"temperature": 0.1, "symmetric": True}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def pairs():
    random = np.random.default_rng(3)
    return tuple(jnp.float32(unit(random.normal(size=(16, 12)))) for _ in range(2))


def explicit(queries, targets, widths):
    """Each width by itself; `ega_loss` normalises the cut rows."""
    losses = [ega_loss(queries[:, :width], targets[:, :width], **OPTIONS) for width in widths]
    return jnp.stack(losses).mean()


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
def test_value_and_gradient_are_the_explicit_mean(pairs, exchange):
    mesh = make_mesh(MeshSettings(data=4, fsdp=2))
    loss_fn = sharded_ega_loss(mesh, BATCH, exchange=exchange)

    def ours(queries, targets):
        return matryoshka_loss(loss_fn, queries, targets, (3, 8), normalize=False, **OPTIONS)

    (value, stats), gradients = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(*pairs)
    expected, expected_gradients = jax.value_and_grad(explicit, (0, 1))(*pairs, (12, 3, 8))
    # At full width `normalize=False` differentiates with respect to the rows as they are: compare along the sphere.
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, wanted, rows in zip(gradients, expected_gradients, pairs, strict=True):
        along = found - (found * rows).sum(-1, keepdims=True) * rows
        np.testing.assert_allclose(along, wanted, atol=1e-6 * np.abs(wanted).max() + 1e-7)
    _, full = ega_loss(*pairs, return_stats=True, **OPTIONS)
    np.testing.assert_allclose(stats.positive_similarity, full.positive_similarity, atol=1e-6)


def test_no_width_is_the_plain_loss(pairs):
    value, _ = matryoshka_loss(ega_loss, *pairs, (), **OPTIONS)
    assert value == ega_loss(*pairs, **OPTIONS)


def test_a_cut_row_of_zeros_has_a_finite_gradient():
    rows = jnp.eye(4, dtype=jnp.float32)
    assert jnp.isfinite(jax.grad(lambda x: truncate(x, 2).sum())(rows)).all()
    np.testing.assert_array_equal(truncate(rows, 2)[3], [0, 0])
