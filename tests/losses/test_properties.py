"""Properties that hold for any batch, checked on random ones. Shapes are fixed, so each property compiles once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ega_jax.losses import ega_loss, info_nce_loss

ROWS, COLUMNS, FEATURES = 6, 9, 4
COMBINE = ("normalized", "rebalanced")
KINDS = ({"combine": "normalized", "symmetric": True}, {"combine": "rebalanced", "symmetric": False})
quick = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)
alphas = st.floats(-5, 20, width=32)
betas = st.floats(0, 30, width=32)
temperatures = st.floats(1 / 16, 2, width=32)


def random_batch(seed):
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    targets = rng.normal(size=(COLUMNS, FEATURES)).astype(np.float32)
    return rng, queries, targets


@functools.partial(jax.jit, static_argnames=("combine", "normalize", "symmetric"))
def evaluate(queries, targets, temperature, alpha, beta, options, combine="normalized", **static):
    def loss(queries, targets):
        return ega_loss(
            queries,
            targets,
            temperature=temperature,
            alpha=alpha,
            beta=beta,
            combine=combine,
            **options,
            **static,
        )

    return jax.value_and_grad(loss, (0, 1))(queries, targets)


def assert_close(actual, expected, temperature):
    # Rounding of similarities reaches the loss and gradients divided by the temperature (gradients twice).
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6 / temperature**2)


@quick
@given(seeds, temperatures, alphas, betas, st.sampled_from(KINDS))
def test_order_does_not_matter(seed, temperature, alpha, beta, static):
    rng, queries, targets = random_batch(seed)
    row_order, column_order = rng.permutation(ROWS), rng.permutation(COLUMNS)
    weights, mask = rng.random(ROWS).astype(np.float32), rng.random((ROWS, COLUMNS)) < 0.8
    positives = np.arange(ROWS)
    options = {"weights": weights, "mask": mask, "positives": positives}
    value, (of_queries, of_targets) = evaluate(queries, targets, temperature, alpha, beta, options, **static)
    # Column c moves to where column_order holds c.
    moved = np.argsort(column_order)[positives]
    options = {
        "weights": weights[row_order],
        "mask": mask[row_order][:, column_order],
        "positives": moved[row_order],
    }
    permuted = evaluate(queries[row_order], targets[column_order], temperature, alpha, beta, options, **static)
    assert_close(permuted, (value, (of_queries[row_order], of_targets[column_order])), temperature)


@quick
@given(seeds, temperatures, st.floats(-3, 3, width=32))
def test_shifting_all_similarities_of_a_row_does_not_matter(seed, temperature, shift):
    """A feature that all targets share adds the same to each similarity; relative hardness does not see it."""
    _, queries, targets = random_batch(seed)
    ones = np.ones((COLUMNS, 1), np.float32)
    plain, shifted = (
        evaluate(
            np.concatenate([queries, np.full((ROWS, 1), amount, np.float32)], axis=1),
            np.concatenate([targets, ones], axis=1),
            temperature,
            3.0,
            1.0,
            {},
            normalize=False,
        )
        for amount in (0.0, shift)
    )
    np.testing.assert_allclose(shifted[0], plain[0], rtol=1e-4, atol=1e-5 / temperature)
    np.testing.assert_allclose(shifted[1][0], plain[1][0], rtol=1e-3, atol=1e-4 / temperature**2)


@quick
@given(seeds, temperatures, alphas, betas, st.sampled_from(KINDS))
def test_padding_does_not_matter(seed, temperature, alpha, beta, static):
    rng, queries, targets = random_batch(seed)
    expected = evaluate(queries, targets, temperature, alpha, beta, {}, **static)
    garbage = (100 * rng.normal(size=(3, FEATURES))).astype(np.float32)
    value, (of_queries, of_targets) = evaluate(
        np.concatenate([queries, garbage]),
        np.concatenate([targets, garbage]),
        temperature,
        alpha,
        beta,
        {
            "weights": np.r_[np.ones(ROWS), np.zeros(3)].astype(np.float32),
            "target_mask": np.r_[np.ones(COLUMNS, bool), np.zeros(3, bool)],
        },
        **static,
    )
    assert np.all(of_queries[ROWS:] == 0)
    assert np.all(of_targets[COLUMNS:] == 0)
    assert_close((value, (of_queries[:ROWS], of_targets[:COLUMNS])), expected, temperature)


def similarity_gradient(seed, temperature, alpha, beta, combine):
    """P̄ - Y: with one-hot targets and no normalisation, the gradient by queries is that by similarities."""
    similarity = np.random.default_rng(seed).uniform(-1, 1, size=(ROWS, ROWS)).astype(np.float32)
    _, (gradient, _) = evaluate(
        similarity,
        np.eye(ROWS, dtype=np.float32),
        temperature,
        alpha,
        beta,
        {},
        combine=combine,
        normalize=False,
    )
    return similarity, np.asarray(gradient) * temperature * ROWS


@quick
@given(seeds, temperatures, alphas, betas, st.sampled_from(COMBINE))
def test_gradient_rows_sum_to_zero(seed, temperature, alpha, beta, combine):
    _, gradient = similarity_gradient(seed, temperature, alpha, beta, combine)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-5 * max(1.0, np.abs(gradient).max()))


def test_unnormalized_gradient_rows_sum_to_more():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ega_jax.losses.ega._warn_of_unnormalized", lambda: None)
        _, gradient = similarity_gradient(0, 0.1, 5.0, 4.0, "unnormalized")
    assert np.all(gradient.sum(axis=1) > 0.01)


@quick
@given(seeds, temperatures, st.floats(-50, 200, width=32), st.floats(0, 2.0**60, width=32))
def test_normalized_distribution_is_bounded(seed, temperature, alpha, beta):
    _, gradient = similarity_gradient(seed, temperature, alpha, beta, "normalized")
    distribution = gradient + np.eye(ROWS)
    assert distribution.min() >= -1e-5
    assert distribution.max() <= 1 + 1e-5


@quick
@given(seeds, temperatures, st.floats(0, 50, width=32), st.floats(0, 100, width=32))
def test_normalized_never_shrinks_the_hardest_negative_nor_the_pull(seed, temperature, alpha, beta):
    similarity, amplified = similarity_gradient(seed, temperature, alpha, beta, "normalized")
    _, plain = similarity_gradient(seed, temperature, 0.0, 0.0, "normalized")
    diagonal = np.eye(ROWS, dtype=bool)
    hardest = np.argmax(np.where(diagonal, -np.inf, similarity), axis=1)
    rows = np.arange(ROWS)
    assert np.all(amplified[rows, hardest] >= plain[rows, hardest] - 1e-6)
    assert np.all(amplified[rows, rows] <= plain[rows, rows] + 1e-6)


@quick
@given(seeds, temperatures, alphas, betas, st.sampled_from(COMBINE))
def test_the_value_does_not_depend_on_alpha_and_beta(seed, temperature, alpha, beta, combine):
    _, queries, targets = random_batch(seed)
    value, _ = evaluate(queries, targets, temperature, alpha, beta, {}, combine=combine)
    expected = info_nce_loss(jnp.asarray(queries), jnp.asarray(targets), temperature=temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6 / temperature)
