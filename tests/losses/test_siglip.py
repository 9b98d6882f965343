"""SigLIP's loss against its definition in float64, against autodiff of the dense form, and over meshes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ega_jax.losses import sharded_siglip_loss, siglip_loss

from . import reference
from .test_ega import batch

ROWS, COLUMNS, FEATURES = 16, 24, 6
rng = np.random.default_rng(0)
IDS = {"query_ids": rng.integers(0, 12, ROWS), "target_ids": rng.integers(0, 12, COLUMNS)}
OPTIONS = {
    "plain": {},
    "own negatives": {
        "negatives": rng.normal(size=(ROWS, 3, FEATURES)).astype(np.float32),
        "negative_weights": (rng.random((ROWS, 3)) * (rng.random((ROWS, 3)) < 0.7)).astype(np.float32),
        "weights": np.r_[rng.random(14), 0, 0].astype(np.float32),
        "normalize": False,
    },
    "shared negatives, all masks": {
        "negatives": rng.normal(size=(8, FEATURES)).astype(np.float32),
        **IDS,
        "target_mask": rng.random(COLUMNS) < 0.8,
        "mask": rng.random((ROWS, COLUMNS + 8)) < 0.8,
        "positives": rng.integers(0, COLUMNS, ROWS),
    },
    "ids, sum": {**IDS, "reduction": "sum", "positives": rng.integers(0, COLUMNS, ROWS)},
}


def differentiated(name):
    queries, targets = batch(ROWS, COLUMNS, FEATURES)
    arrays = {"queries": queries, "targets": targets, "temperature": jnp.float32(0.2), "bias": jnp.float32(-2)}
    return {**arrays, **{k: v for k, v in OPTIONS[name].items() if k == "negatives"}}


def step(loss, name, **more):
    """Jitted value and gradients by everything that has one; options are arguments too."""
    static = {k: v for k, v in {**OPTIONS[name], **more}.items() if not isinstance(v, np.ndarray)}
    arrays = {k: v for k, v in OPTIONS[name].items() if isinstance(v, np.ndarray) and k != "negatives"}
    return jax.jit(jax.value_and_grad(lambda x, arrays: loss(**x, **arrays, **static)))(differentiated(name), arrays)


@functools.cache
def on_one_device(name):
    return jax.device_get(step(siglip_loss, name))


def assert_close(actual, expected, tolerance=1e-5):
    """Values, and each gradient relative to its norm."""
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
    for name, gradient in expected[1].items():
        error = np.linalg.norm(np.asarray(actual[1][name], np.float64) - gradient)
        assert error <= tolerance * np.linalg.norm(gradient), name


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_definition(name, block_size):
    expected = reference.siglip(**{**OPTIONS[name], **jax.device_get(differentiated(name))})
    actual = on_one_device(name) if block_size is None else step(siglip_loss, name, block_size=block_size)
    assert_close(actual, expected)


def test_equals_autodiff_of_the_dense_form():
    def dense(queries, targets, temperature, bias):
        unit = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (queries, targets)]
        labels = 2 * jnp.eye(ROWS, COLUMNS) - 1
        logits = unit[0] @ unit[1].T / temperature + bias
        return -jnp.sum(jax.nn.log_sigmoid(labels * logits)) / ROWS

    expected = jax.jit(jax.value_and_grad(lambda x: dense(**x)))(differentiated("plain"))
    assert_close(on_one_device("plain"), expected)


def test_defaults_are_the_papers():
    queries, targets = batch()
    expected, _ = reference.siglip(queries, targets, temperature=1 / 10, bias=-10.0)
    np.testing.assert_allclose(siglip_loss(queries, targets), expected, rtol=1e-6)


def test_the_transposed_batch_has_the_same_loss():
    queries, targets = batch(7, 7)
    np.testing.assert_allclose(siglip_loss(queries, targets), siglip_loss(targets, queries), rtol=1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.floats(0.01, 2),
    st.floats(-30, 30),
    st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
)
def test_random_batches(seed, temperature, bias, dtype):
    """Of any floating dtype: products are exact, results are rounded to the dtype."""
    draw = np.random.default_rng(seed)
    queries, targets = (jnp.asarray(draw.normal(size=(n, 5)), dtype) for n in (7, 11))
    rows = {"weights": draw.random(7), "mask": draw.random((7, 11)) < 0.7}
    rounded = [np.asarray(x, np.float64) for x in (queries, targets)]
    value, gradients = reference.siglip(*rounded, temperature=temperature, bias=bias, **rows)
    rows["weights"] = rows["weights"].astype(np.float32)
    found, of_both = _value_and_grad(queries, targets, temperature, bias, rows)
    # float32 similarities are off by 1e-7, logits by 1e-7 / τ; gradients by targets sum rows that may cancel.
    rounding = 4e-7 / temperature
    np.testing.assert_allclose(found, value, rtol=1e-5 + rounding, atol=1e-30)
    for actual, name in zip(of_both, ("queries", "targets"), strict=True):
        assert actual.dtype == dtype
        scale = np.abs(gradients[name]).max() + 1e-5
        tolerance = 1e-5 + 4 * rounding + 2 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(actual, np.float64) / scale, gradients[name] / scale, atol=tolerance)


@jax.jit
def _value_and_grad(queries, targets, temperature, bias, options):
    return jax.value_and_grad(
        lambda q, t: siglip_loss(q, t, temperature=temperature, bias=bias, block_size=3, **options), (0, 1)
    )(queries, targets)


@pytest.mark.parametrize("temperature", [0.02, 0.001])
def test_small_temperatures(temperature):
    queries, targets = batch(32, 48, 16)
    value, gradients = reference.siglip(queries, targets, temperature=temperature, bias=-0.3 / temperature)
    found, of_queries = jax.value_and_grad(siglip_loss)(
        queries, targets, temperature=temperature, bias=-0.3 / temperature
    )
    np.testing.assert_allclose(found, value, rtol=2e-7 / temperature)
    error = np.linalg.norm(of_queries - gradients["queries"]) / np.linalg.norm(gradients["queries"])
    assert error < 4e-7 / temperature


def test_padding_may_hold_nan_and_nothing_else_may():
    queries, targets = batch(5, 8)
    nan = np.full((2, 5), np.nan, np.float32)
    grad = jax.value_and_grad(siglip_loss, (0, 1))
    expected = grad(queries, targets)
    value, (of_queries, of_targets) = grad(
        np.concatenate([queries, nan]),
        np.concatenate([targets[:5], nan, targets[5:]]),
        weights=np.array([1, 1, 1, 1, 1, 0, 0], np.float32),
        target_mask=np.array([True] * 5 + [False] * 2 + [True] * 3),
    )
    assert np.all(of_queries[5:] == 0)
    assert np.all(of_targets[5:7] == 0)
    found = (value, (of_queries[:5], np.delete(of_targets, [5, 6], axis=0)))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)
    assert np.isnan(siglip_loss(np.concatenate([queries, nan]), np.concatenate([targets[:5], nan])))
    for bad in (-1, 8):
        value, of_queries = jax.value_and_grad(siglip_loss)(queries, targets, positives=np.array([0, bad, 2, 3, 4]))
        assert np.isnan(value)
        assert np.isnan(of_queries).any()


def test_no_row_counts():
    queries, targets = batch()
    result = jax.value_and_grad(siglip_loss)(queries, targets, weights=np.zeros(7, np.float32))
    chex.assert_trees_all_equal(result, (np.zeros(()), np.zeros_like(queries)))


# ------------------------------------------------------------------------------------------------------------- devices

MESHES = {"1": (1,), "2": (2,), "8": (8,), "4 x 2": (4, 2)}
CASES = [("4 x 2", "all_gather", name) for name in OPTIONS if name != "plain"]
CASES += [("4 x 2", "ring", "own negatives"), ("4 x 2", "ring", "ids, sum"), ("8", "ring", "plain")]
CASES += [("1", "ring", "plain"), ("2", "ring", "plain"), ("2", "all_gather", "plain")]


def make_mesh(shape, axis_type=AxisType.Auto):
    axes = ("data", "fsdp")[: len(shape)]
    return jax.make_mesh(shape, axes, axis_types=(axis_type,) * len(shape)), axes


@pytest.mark.parametrize(("mesh_name", "exchange", "name"), CASES)
def test_equals_one_device(mesh_name, exchange, name):
    mesh, axes = make_mesh(MESHES[mesh_name])
    actual = step(sharded_siglip_loss(mesh, axes, exchange=exchange, block_size=1), name)
    assert_close(jax.device_get(actual), on_one_device(name))


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
def test_gradients_inside_shard_map(exchange):
    """Scale and bias are replicated: each device gets the sum over devices, once."""
    mesh, axes = make_mesh((4, 2))
    by_row, replicated = PartitionSpec(axes), PartitionSpec()
    queries, targets = batch(ROWS, ROWS, FEATURES)
    loss = jax.value_and_grad(
        lambda q, t, tau, b, **more: siglip_loss(q, t, temperature=tau, bias=b, **more), (0, 1, 2, 3)
    )
    arguments = (queries, targets, jnp.float32(0.2), jnp.float32(-2))
    inside = jax.shard_map(
        functools.partial(loss, axis_name=axes, exchange=exchange),
        mesh=mesh,
        in_specs=(by_row, by_row, replicated, replicated),
        out_specs=(replicated, (by_row, by_row, replicated, replicated)),
    )
    chex.assert_trees_all_close(jax.jit(inside)(*arguments), jax.jit(loss)(*arguments), rtol=1e-5, atol=1e-6)


def test_sharded_arrays_under_jit():
    mesh, axes = make_mesh((8,))
    queries, targets = jax.device_put(batch(ROWS, COLUMNS, FEATURES), NamedSharding(mesh, PartitionSpec(axes)))
    value, gradient = jax.jit(jax.value_and_grad(functools.partial(siglip_loss, temperature=0.2, bias=-2.0)))(
        queries, targets
    )
    expected = on_one_device("plain")
    assert_close((value, {"queries": gradient}), (expected[0], {"queries": expected[1]["queries"]}))


def test_memory():
    """No array of all pairs; and on the ring nothing of all devices."""
    local, features, block_size = 256, 32, 32
    shape = jax.ShapeDtypeStruct((2048, features), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(functools.partial(siglip_loss, block_size=32), (0, 1))).lower(shape, shape)
    assert (
        compiled.compile().memory_analysis().temp_size_in_bytes < 8 * 4 * block_size * 2048 + 12 * 4 * 2048 * features
    )
    mesh, axes = make_mesh((8,))
    shape = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(mesh, PartitionSpec(axes)))
    loss = sharded_siglip_loss(mesh, axes, exchange="ring", block_size=block_size)
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(shape, shape).compile()
    assert " all-gather(" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 20 * 4 * local * features + 8 * 4 * block_size * local


# ----------------------------------------------------------------------------------------------------- transformations


def test_transformations():
    queries, targets = (jnp.stack([x] * 2) for x in batch())
    grad = jax.value_and_grad(lambda q, t: siglip_loss(q, t, block_size=3))
    expected = jax.tree.map(lambda x: jnp.stack([x, x]), grad(queries[0], targets[0]))
    chex.assert_trees_all_close(jax.vmap(grad)(queries, targets), expected, rtol=1e-6)
    _, scanned = jax.lax.scan(lambda carry, x: (carry, grad(*x)), None, (queries, targets))
    chex.assert_trees_all_close(scanned, expected, rtol=1e-6)
    rematerialized = jax.value_and_grad(jax.checkpoint(siglip_loss))(queries[0], targets[0])
    chex.assert_trees_all_close(rematerialized, grad(queries[0], targets[0]), rtol=1e-5)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        jax.grad(lambda q: jnp.sum(jax.grad(siglip_loss)(q, targets[0]) ** 2))(queries[0])


Q, T = batch()
BAD_CALLS = {
    "features": ({"targets": T[:, :4]}, ValueError, "equally many features"),
    "temperature": ({"temperature": -1.0}, ValueError, "temperature must be positive"),
    "bias": ({"bias": np.zeros(7)}, ValueError, "bias must be a scalar"),
    "exchange": ({"exchange": "gossip"}, ValueError, "exchange must be"),
    "a ring of nothing": ({"exchange": "ring"}, ValueError, "needs axis_name"),
    "options of a softmax": ({"top_k": 3}, TypeError, "top_k"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    options, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        siglip_loss(**{"queries": Q, "targets": T, **options})
