"""The losses under JAX's transformations, inside training steps, and over sharded arrays."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ega_jax.losses import ega_loss

from .test_ega import batch


def value_and_grad(queries, targets, **options):
    return jax.value_and_grad(lambda q, t: ega_loss(q, t, temperature=0.1, **options), (0, 1))(queries, targets)


def test_vmap_and_scan_equal_a_loop():
    batches = [batch(seed=seed) for seed in range(3)]
    queries, targets = (jnp.stack(arrays) for arrays in zip(*batches, strict=True))
    weights = jnp.asarray(np.random.default_rng(0).random((3, 7)), jnp.float32)

    def step(queries, targets, weights):
        return value_and_grad(queries, targets, weights=weights, symmetric=True)

    single = jax.jit(step)
    expected = jax.tree.map(lambda *x: jnp.stack(x), *[single(*x) for x in zip(queries, targets, weights, strict=True)])
    vmapped = jax.jit(jax.vmap(step))(queries, targets, weights)
    _, scanned = jax.jit(lambda *x: jax.lax.scan(lambda carry, x: (carry, step(*x)), None, x))(
        queries, targets, weights
    )
    chex.assert_trees_all_close(vmapped, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(scanned, expected, rtol=1e-5, atol=1e-6)


def test_vmap_over_hyperparameters():
    queries, targets = batch()
    alphas, temperatures = jnp.array([0.0, 2.0, 9.0]), jnp.array([0.05, 0.1, 1.0])

    def gradient(alpha, temperature):
        return jax.grad(lambda q: ega_loss(q, targets, alpha=alpha, temperature=temperature))(queries)

    expected = jnp.stack([gradient(float(a), float(t)) for a, t in zip(alphas, temperatures, strict=True)])
    chex.assert_trees_all_close(jax.vmap(gradient)(alphas, temperatures), expected, rtol=1e-5, atol=1e-6)


def test_remat():
    queries, targets = batch()
    plain = lambda q: jnp.sin(ega_loss(jnp.tanh(q), targets, temperature=0.1))  # noqa: E731
    expected = jax.value_and_grad(plain)(queries)
    chex.assert_trees_all_close(jax.value_and_grad(jax.checkpoint(plain))(queries), expected, rtol=1e-6)


def images_and_labels():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(16, 12))
    return (centres + 0.1 * rng.normal(size=(16, 12))).astype(np.float32), centres.astype(np.float32)


def test_nnx_training_step():
    class TwoTowers(nnx.Module):
        def __init__(self, rngs):
            self.query = nnx.Linear(12, 8, rngs=rngs)
            self.target = nnx.Linear(12, 8, rngs=rngs)
            self.log_temperature = nnx.Param(jnp.log(0.1))

    model = TwoTowers(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, queries, targets):
        def loss_fn(model):
            return ega_loss(
                model.query(queries), model.target(targets), temperature=jnp.exp(model.log_temperature[...])
            )

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer, *images_and_labels())) for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]
    assert model.log_temperature[...] != jnp.log(0.1)


def test_linen_training_step():
    tower = nn.Dense(8)
    queries, targets = images_and_labels()
    params = {
        "query": tower.init(jax.random.key(0), queries),
        "target": tower.init(jax.random.key(1), targets),
    }
    optimizer = optax.adam(3e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        def loss_fn(params):
            return ega_loss(
                tower.apply(params["query"], queries),
                tower.apply(params["target"], targets),
                temperature=0.1,
                return_stats=True,
            )

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss, stats

    losses, pulls = [], []
    for _ in range(30):
        params, state, loss, stats = step(params, state)
        losses.append(float(loss))
        pulls.append(float(stats.means()["positive_pull"]))
    assert losses[-1] < 0.2 * losses[0]
    assert pulls[-1] < 0.5 * pulls[0]


@pytest.mark.parametrize("shape", [(8,), (4, 2)])
def test_sharded_arrays_under_jit_equal_one_device(shape):
    """GSPMD: the loss of the global batch, and gradients that keep the sharding of their arrays."""
    names = ("data", "fsdp")[: len(shape)]
    mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))
    rows = NamedSharding(mesh, PartitionSpec(names))
    queries, targets = batch(32, 48, 16)
    rng = np.random.default_rng(1)
    per_row = {"weights": np.r_[np.ones(30), 0, 0].astype(np.float32), "query_ids": rng.integers(0, 20, 32)}
    per_column = {"target_ids": rng.integers(0, 20, 48), "target_mask": rng.random(48) < 0.9}
    negatives = rng.normal(size=(8, 16)).astype(np.float32)

    @jax.jit
    def step(queries, targets, temperature, options):
        def loss(queries, targets, temperature):
            return ega_loss(queries, targets, temperature=temperature, **options, symmetric=True, return_stats=True)

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(queries, targets, temperature)

    arguments = (queries, targets, jnp.float32(0.05), {**per_row, **per_column, "negatives": negatives})
    sharded = jax.device_put(arguments, jax.tree.map(lambda x: rows if np.ndim(x) else None, arguments))
    expected = step(*arguments)
    actual = step(*sharded)
    assert len(actual[1][0].sharding.device_set) == 8
    chex.assert_trees_all_close(jax.device_get(actual), jax.device_get(expected), rtol=2e-5, atol=2e-6)
