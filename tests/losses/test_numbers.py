"""Numbers that cannot go wrong: extreme options, degenerate batches, NaN, against the definition in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ega_jax.losses import ega_loss, info_nce_loss, siglip_loss

from . import reference
from .test_ega import batch

pytestmark = pytest.mark.filterwarnings("ignore:combine=.unnormalized")
ROWS, COLUMNS, FEATURES, OWN = 6, 9, 4, 2

# What is compiled: shapes, dtypes, blocks and static options, each met at least once in some company.
PROGRAMS = (
    {"combine": "normalized", "hardness": "relative", "block_size": None},
    {"combine": "rebalanced", "hardness": "absolute", "block_size": 4, "symmetric": True},
    {"combine": "unnormalized", "hardness": "relative", "block_size": 1, "normalize": False, "own": True},
    {"combine": "rebalanced", "hardness": "relative", "block_size": 5, "own": True, "log_weight_cap": 2.0},
    {"combine": "normalized", "hardness": "absolute", "block_size": 4, "dtype": jnp.bfloat16, "reduction": "sum"},
    {"combine": "normalized", "hardness": "relative", "block_size": 3, "symmetric": True, "dtype": jnp.float16},
)
DEGENERATE = ("nothing", "zero query", "zero target", "duplicates", "all equal", "no negatives", "uneven norms")


@functools.cache
def program(number):
    static = {k: v for k, v in PROGRAMS[number].items() if k not in ("own", "dtype")}

    def loss(queries, targets, negatives, options):
        return ega_loss(queries, targets, negatives=negatives, **options, **static)

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.sampled_from(range(len(PROGRAMS))),
    st.sampled_from(DEGENERATE),
    st.floats(1e-3, 2),
    st.floats(0, 50),
    st.floats(0, 1e4),
)
def test_equals_definition(seed, number, degenerate, temperature, alpha, beta):
    draw = np.random.default_rng(seed)
    queries, targets = batch(ROWS, COLUMNS, FEATURES, seed)
    negatives = draw.normal(size=(ROWS, OWN, FEATURES)).astype(np.float32) if PROGRAMS[number].get("own") else None
    mask = draw.random((ROWS, COLUMNS)) < 0.8
    match degenerate:
        case "zero query":
            queries[1] = 0
        case "zero target":
            targets[2] = 0
        case "duplicates":
            targets[[3, 7]], queries[4] = targets[0], queries[2]
        case "all equal":
            queries[:], targets[:] = queries[0], queries[0]
        case "no negatives":
            mask[0] = False
        case "uneven norms":
            queries[0] *= 1e3
            targets[1] *= 1e-3
    options = {
        "temperature": temperature,
        "alpha": alpha,
        "beta": beta,
        "mask": mask,
        "target_mask": draw.random(COLUMNS) < 0.9,
        "weights": (draw.random(ROWS) * (draw.random(ROWS) < 0.8)).astype(np.float32),
        "query_ids": draw.integers(0, 8, ROWS),
        "target_ids": draw.integers(0, 8, COLUMNS),
    }
    dtype = PROGRAMS[number].get("dtype", jnp.float32)
    if negatives is not None:
        options["negative_weights"] = (draw.random((ROWS, OWN)) * (draw.random((ROWS, OWN)) < 0.8)).astype(np.float32)
    arrays = [None if x is None else jnp.asarray(x, dtype) for x in (queries, targets, negatives)]
    value, gradients = program(number)(*arrays, options)
    exact = [None if x is None else np.asarray(x, np.float64) for x in arrays]
    static = {k: v for k, v in PROGRAMS[number].items() if k not in ("own", "dtype", "block_size")}
    expected = reference.ega(*exact[:2], negatives=exact[2], **options, **static)

    # float32 similarities are off by 1e-7 (times norms, where they are not divided out), logits by 1e-7 / τ, weights by
    # α 1e-7; of gradients, the terms are off by that, and the sum may be smaller than its terms.
    size = 1.0
    if not static.get("normalize", True):
        size = max(np.linalg.norm(x, axis=-1).max() ** 2 for x in exact if x is not None)
    rounding = 4e-7 * size * (1 / temperature + alpha)
    np.testing.assert_allclose(value, expected.loss, rtol=1e-5 + rounding, atol=1e-6 + rounding)
    assert value.dtype == jnp.float32
    for name, gradient in zip(("queries", "targets"), gradients, strict=True):
        assert gradient.dtype == dtype
        norms = np.linalg.norm(exact[("queries", "targets").index(name)], axis=-1, keepdims=True)
        unit = 1.0 if static.get("normalize", True) is False else np.where(norms > 0, norms, 1.0)
        terms = size * np.abs(expected.similarity_gradient).sum()
        tolerance = (2e-6 + rounding + 4 * float(jnp.finfo(dtype).eps)) * terms
        difference = np.abs(np.asarray(gradient, np.float64) - getattr(expected, name)) * unit
        # Gradients of a float16 array may be smaller than float16 can hold.
        tiny = float(jnp.finfo(dtype).smallest_subnormal) * unit
        assert np.all(difference <= tolerance + tiny), (difference.max(), tolerance)


@pytest.mark.parametrize("combine", ["normalized", "rebalanced", "unnormalized"])
@pytest.mark.parametrize("hardness", ["relative", "absolute"])
def test_the_largest_alpha_and_beta(combine, hardness):
    """α 50 and β 1e4 at τ 1e-3 and 0.02: weights of e^100 that are cut at e^20, or divided out."""
    queries, targets = batch(num_rows=24, num_columns=40, features=8, closeness=0.2)
    fixed = {"alpha": 50.0, "beta": 1e4, "combine": combine, "hardness": hardness}
    grad = jax.jit(jax.value_and_grad(lambda q, tau: ega_loss(q, targets, temperature=tau, **fixed)))
    for temperature in (0.02, 1e-3):
        expected = reference.ega(queries, targets, temperature=temperature, **fixed)
        value, gradient = grad(queries, temperature)
        tolerance = 4e-7 * (1 / temperature + 50)
        np.testing.assert_allclose(value, expected.loss, rtol=tolerance)
        error = np.linalg.norm(gradient - expected.queries) / np.linalg.norm(expected.queries)
        assert error < tolerance


def test_equal_similarities_share_alike():
    """log M, and every negative an equal share: of 8 columns at β 1, each negative 2 / 15 and the positive 1 / 15."""
    queries, targets = np.ones((8, 1), np.float32), np.eye(8, dtype=np.float32)
    loss, gradient = jax.value_and_grad(ega_loss, 0)(np.repeat(queries, 8, 1), targets, normalize=False)
    np.testing.assert_allclose(loss, np.log(8), rtol=1e-6)
    expected = (np.full((8, 8), 2 / 15) - np.eye(8) * (2 / 15 + 14 / 15)) / (0.02 * 8)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------------- NaN

OPTIONS = {
    "plain": {},
    "margin": {"false_negative_margin": 0.1},
    "top_k": {"top_k": 2},
    "blocks": {"block_size": 2, "symmetric": True},
    "no negatives": {"mask": np.zeros((7, 11), bool)},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_is_nan_out(name, bad):
    """One bad number in one row: the loss says so, whatever leaves out negatives by comparing similarities."""
    queries, targets = batch()
    step = jax.jit(jax.value_and_grad(functools.partial(ega_loss, temperature=0.1, **OPTIONS[name])))
    for place in ("queries", "targets"):
        arrays = {"queries": queries.copy(), "targets": targets.copy()}
        arrays[place][2, 1] = bad
        value, gradient = step(arrays["queries"], arrays["targets"])
        assert np.isnan(value)
        assert np.isnan(gradient).any()


@pytest.mark.parametrize("own", [False, True])
def test_nan_among_negatives_is_nan_out(own):
    queries, targets = batch()
    negatives = np.ones((7, 2, 5) if own else (2, 5), np.float32)
    negatives[1] = np.nan
    for options in ({}, {"false_negative_margin": 0.0}, {"top_k": 1}):
        assert np.isnan(ega_loss(queries, targets, negatives=negatives, **options))
    assert np.isnan(siglip_loss(queries, targets, negatives=negatives))


@pytest.mark.parametrize("loss", [ega_loss, info_nce_loss, siglip_loss])
def test_numbers_out_of_range_are_nan_under_jit(loss):
    """There they cannot be refused."""
    queries, targets = batch()
    negatives = np.ones((7, 2, 5), np.float32)

    @jax.jit
    def evaluate(options):
        return loss(queries, targets, negatives=negatives, **options)

    good = {"weights": np.ones(7), "temperature": 0.1, "negative_weights": np.ones((7, 2))}
    assert np.isfinite(evaluate(good))
    for name in good:
        for bad in (np.nan, -1.0):
            value = np.array(good[name])
            value.flat[-1] = bad
            assert np.isnan(evaluate({**good, name: value})), (name, bad)
    assert np.isnan(evaluate({**good, "temperature": 0.0}))


def test_nan_parameters_spoil_the_gradient():
    """The value does not depend on them."""
    queries, targets = batch()
    grad = jax.jit(jax.grad(lambda q, alpha, beta: ega_loss(q, targets, alpha=alpha, beta=beta)))
    for alpha, beta in ((np.nan, 1.0), (5.0, np.nan), (5.0, -1.0)):
        assert np.isnan(grad(queries, alpha, beta)).any()


# --------------------------------------------------------------------------------------------------------- composition


def test_donated_embeddings():
    queries, targets = batch(7, 7)
    step = functools.partial(jax.value_and_grad(ega_loss, (0, 1)), temperature=0.1, block_size=3)
    expected = jax.jit(step)(queries, targets)
    donated = jax.device_put((queries, targets))
    found = jax.jit(step, donate_argnums=(0, 1))(*donated)
    chex.assert_trees_all_equal(found, expected)
    assert all(array.is_deleted() for array in donated)


BAD_CALLS = {
    "top_k": ({"top_k": 2.0}, ValueError, "top_k must be at least 1, an integer"),
    "block_size": ({"block_size": 64.0}, ValueError, "block_size must be at least 1, an integer"),
    "mask_args": (
        {"mask": lambda i, j, table: table[i, j], "mask_args": np.ones((7, 11), bool)},
        TypeError,
        r"mask_args=\(array,\)",
    ),
    "beta": ({"beta": float("nan")}, ValueError, "beta must not be negative"),
    "log_weight_cap": ({"log_weight_cap": jnp.float32(3)}, TypeError, "log_weight_cap must be a Python number"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    options, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        ega_loss(*batch(), **options)
