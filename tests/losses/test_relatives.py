"""EGA's relatives against their own formulas, differentiated by JAX."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.losses import hardness_weighted_loss, info_nce_loss, llave_loss, unime_loss

from .test_ega import batch

TEMPERATURE = 0.1
QUERIES, TARGETS = batch()
NEGATIVES = np.random.default_rng(2).normal(size=(7, 3, 5)).astype(np.float32)


def similarities(queries, targets):
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    return jnp.einsum("nd,...md->nm" if targets.ndim == 2 else "nd,nmd->nm", unit(queries), unit(targets))


def cross_entropy(logits):
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))


def llave(queries, targets, temperature, alpha):
    """Both directions; the second has no extra columns."""

    def direction(s):
        return cross_entropy(s / temperature + alpha * jax.lax.stop_gradient(s) * (1 - jnp.eye(*s.shape)))

    s = similarities(queries, targets)
    return (direction(s) + direction(s[:, : len(queries)].T)) / 2


def assert_same_derivatives(actual, expected, *arguments):
    numbers = tuple(range(len(arguments)))
    actual, expected = (jax.jit(jax.value_and_grad(f, numbers))(*arguments) for f in (actual, expected))
    chex.assert_trees_all_close(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("block_size", [None, 3])
def test_llave(block_size):
    assert_same_derivatives(
        lambda q, t, tau: llave_loss(q, t, temperature=tau, block_size=block_size),
        lambda q, t, tau: llave(q, t, tau, 9.0),
        QUERIES,
        TARGETS,
        jnp.float32(TEMPERATURE),
    )


def test_llave_of_alpha_zero_is_info_nce():
    assert_same_derivatives(
        lambda q, t: llave_loss(q, t, alpha=0.0, temperature=TEMPERATURE),
        lambda q, t: info_nce_loss(q, t, symmetric=True, temperature=TEMPERATURE),
        QUERIES,
        TARGETS,
    )


@pytest.mark.parametrize(
    ("mode", "shared", "own"),
    [("in_batch_negatives", 5.0, 0.0), ("hard_negatives", 0.0, 5.0), ("all_negatives", 5.0, 5.0)],
)
def test_hardness_modes(mode, shared, own):
    def expected(queries, targets, negatives, temperature):
        s = similarities(queries, targets)
        s_own = similarities(queries, negatives)
        strength = shared * (1 - jnp.eye(*s.shape))
        s, penalties = jnp.concatenate([s, s_own], 1), jnp.concatenate([strength, own * jnp.ones((7, 3))], 1)
        return cross_entropy(s / temperature + penalties * jax.lax.stop_gradient(s))

    def actual(queries, targets, negatives, temperature):
        return hardness_weighted_loss(
            queries, targets, negatives=negatives, temperature=temperature, mode=mode, block_size=2
        )

    assert_same_derivatives(actual, expected, QUERIES, TARGETS, NEGATIVES, jnp.float32(TEMPERATURE))


def test_strength_gets_no_gradient():
    loss = lambda strength: hardness_weighted_loss(QUERIES, TARGETS, strength=strength)  # noqa: E731
    assert jax.grad(loss)(5.0) == 0


def test_unime():
    def expected(queries, targets):
        s = similarities(queries, targets)
        relative = s - jnp.diagonal(s)[:, None]
        positive = jnp.eye(*s.shape, dtype=bool)
        candidates = jnp.where(positive | (relative > 0.1), -jnp.inf, s)
        kept = candidates >= jnp.sort(candidates, axis=1)[:, -4:-3]
        kept &= candidates > -jnp.inf
        return cross_entropy(jnp.where(positive | kept, s / TEMPERATURE, -jnp.inf))

    def actual(queries, targets):
        return unime_loss(queries, targets, top_k=4, temperature=TEMPERATURE)

    assert_same_derivatives(actual, expected, QUERIES, TARGETS)


def test_statistics_describe_the_reweighted_distribution():
    _, stats = llave_loss(QUERIES, TARGETS, temperature=TEMPERATURE, symmetric=False, return_stats=True)
    value = llave_loss(QUERIES, TARGETS, temperature=TEMPERATURE, symmetric=False)
    np.testing.assert_allclose(jnp.mean(stats.loss), value, rtol=1e-6)
    s = np.asarray(similarities(QUERIES, TARGETS), np.float64)
    logits = s / TEMPERATURE + 9 * s * (1 - np.eye(*s.shape))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(stats.positive_pull, 1 - np.diagonal(shares), rtol=1e-4)


def test_bad_calls():
    with pytest.raises(ValueError, match="mode must be"):
        hardness_weighted_loss(QUERIES, TARGETS, mode="hard")
    with pytest.raises(TypeError, match="hardness"):
        llave_loss(QUERIES, TARGETS, hardness="relative")
