"""`ega_loss` and `info_nce_loss` against their definition in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.losses import DEFAULTS, ega_loss, info_nce_loss

from . import reference

COMBINE = ("normalized", "rebalanced", "unnormalized")
HARDNESS = ("relative", "absolute")
pytestmark = pytest.mark.filterwarnings("ignore:combine=.unnormalized")


def batch(num_rows=7, num_columns=11, features=5, seed=0, closeness=1.0):
    """Queries and targets whose positives are closer than chance, of uneven norms."""
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(num_rows, features))
    targets = rng.normal(size=(num_columns, features))
    targets[:num_rows] += closeness * queries
    queries *= rng.uniform(0.3, 3.0, size=(num_rows, 1))
    targets *= rng.uniform(0.3, 3.0, size=(num_columns, 1))
    return queries.astype(np.float32), targets.astype(np.float32)


def assert_equals_definition(queries, targets, temperature=0.05, block_size=None, **options):
    """Value, all gradients and all statistics."""
    expected = reference.ega(queries, targets, temperature=temperature, **options)

    def loss(queries, targets, temperature, negatives):
        return ega_loss(
            queries,
            targets,
            temperature=temperature,
            **{**options, "negatives": negatives},
            block_size=block_size,
            return_stats=True,
        )

    @jax.jit
    def step(*arguments):
        return jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)(*arguments), loss(*arguments)[0]

    arguments = (queries, targets, jnp.float32(temperature), options.get("negatives"))
    ((value, stats), gradients), value_alone = step(*arguments)
    assert_result_close(value, stats, gradients, expected)
    np.testing.assert_allclose(value_alone, value, rtol=1e-6, atol=1e-7)
    return expected


def assert_result_close(value, stats, gradients, expected):
    of_queries, of_targets, of_temperature, of_negatives = gradients
    np.testing.assert_allclose(value, expected.loss, rtol=2e-5, atol=1e-6)
    assert_gradients_close(of_queries, expected.queries)
    assert_gradients_close(of_targets, expected.targets)
    if expected.negatives is not None:
        assert_gradients_close(of_negatives, expected.negatives)
    np.testing.assert_allclose(of_temperature, expected.temperature, rtol=2e-4, atol=1e-4)
    live = np.asarray(stats.weight) > 0
    chex.assert_trees_all_close(
        {name: np.asarray(getattr(stats, name), np.float64)[live] for name in expected.stats},
        {name: values[live] for name, values in expected.stats.items()},
        rtol=2e-4,
        atol=2e-5,
    )


def assert_gradients_close(actual, expected, tolerance=2e-5):
    """Up to a tolerance relative to the largest entry."""
    assert np.all(np.isfinite(actual))
    scale = max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(np.asarray(actual, np.float64) / scale, expected / scale, atol=tolerance)


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("hardness", HARDNESS)
def test_equals_definition(combine, hardness):
    """With α and β traced."""
    queries, targets = batch()

    @jax.jit
    def step(alpha, beta, *arguments):
        def loss(queries, targets, temperature, negatives):
            return ega_loss(
                queries,
                targets,
                temperature=temperature,
                negatives=negatives,
                alpha=alpha,
                beta=beta,
                combine=combine,
                hardness=hardness,
                return_stats=True,
            )

        return jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)(*arguments)

    for alpha, beta in [(5.0, 1.0), (0.0, 3.0), (-2.0, 0.5), (5.0, 0.0)]:
        expected = reference.ega(
            queries, targets, temperature=0.05, alpha=alpha, beta=beta, combine=combine, hardness=hardness
        )
        (value, stats), gradients = step(alpha, beta, queries, targets, jnp.float32(0.05), None)
        assert_result_close(value, stats, gradients, expected)


def make_options(name):
    rng = np.random.default_rng(7)
    ids = {"query_ids": rng.integers(0, 4, 7), "target_ids": rng.integers(0, 4, 11)}
    mask = rng.random((7, 11)) < 0.6
    return {
        "square": {"columns": 7},
        "positives": {"positives": np.array([3, 3, 0, 10, 9, 1, 3])},
        "ids": ids,
        "mask": {"mask": mask},
        "no negatives in two rows": {"mask": np.arange(7)[:, None] % 4 > np.zeros(11)},
        "target_mask": {"target_mask": rng.random(11) < 0.5},
        "weights": {"weights": np.array([1.0, 0.5, 0.0, 2.0, 0.25, 0.0, 1.0], np.float32)},
        "weights, sum": {"weights": np.array([1.0, 0.5, 0.0, 2, 0.25, 0, 1]), "reduction": "sum"},
        "margin": {"false_negative_margin": 0.1},
        "negative margin": {"false_negative_margin": -0.2},
        "not normalized": {"normalize": False},
        "sum": {"reduction": "sum"},
        "shared negatives": {"negatives": rng.normal(size=(4, 5)).astype(np.float32)},
        "shared negatives, ids, masks": {
            "negatives": rng.normal(size=(4, 5)).astype(np.float32),
            **ids,
            "mask": mask,
            "target_mask": rng.random(15) < 0.8,
        },
        "own negatives": {"negatives": rng.normal(size=(7, 3, 5)).astype(np.float32)},
        "own negatives, weights": {
            "negatives": rng.normal(size=(7, 3, 5)).astype(np.float32),
            "negative_weights": rng.uniform(0.2, 3, size=(7, 3)) * (rng.random((7, 3)) < 0.7),
            "weights": np.array([1.0, 0.5, 0.0, 2.0, 0.25, 0.0, 1.0], np.float32),
            "mask": mask,
            "false_negative_margin": 0.3,
            "top_k": 4,
        },
        "top_k": {"top_k": 3},
        "top_k of few": {"top_k": 3, "mask": mask, "target_mask": rng.random(11) < 0.6},
        "everything": {
            "negatives": rng.normal(size=(4, 5)).astype(np.float32),
            "positives": np.array([3, 3, 0, 10, 9, 1, 3]),
            "query_ids": rng.integers(0, 4, 7),
            "target_ids": rng.integers(0, 4, 15),
            "mask": rng.random((7, 15)) < 0.7,
            "target_mask": rng.random(11) < 0.8,
            "weights": np.array([1.0, 0.5, 0.0, 2.0, 0.25, 0.0, 1.0], np.float32),
            "false_negative_margin": 0.3,
        },
    }[name]


OPTIONS = (
    "square",
    "positives",
    "ids",
    "mask",
    "no negatives in two rows",
    "target_mask",
    "weights",
    "weights, sum",
    "margin",
    "negative margin",
    "not normalized",
    "sum",
    "shared negatives",
    "shared negatives, ids, masks",
    "own negatives",
    "own negatives, weights",
    "top_k",
    "top_k of few",
    "everything",
)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_equal_definition(name):
    """In turn dense and in blocks (seven rows by three), one-directional and symmetric, normalized and rebalanced."""
    options = make_options(name)
    queries, targets = batch(num_columns=options.pop("columns", 11))
    number = OPTIONS.index(name)
    assert_equals_definition(
        queries,
        targets,
        symmetric=number % 2 == 0,
        combine=COMBINE[number // 2 % 2],
        block_size=(None, 3)[number % 3 > 0],
        **options,
    )


def test_mask_function_equals_mask_array():
    queries, targets = batch()
    mask = np.random.default_rng(0).random((7, 11)) < 0.5

    def mask_fn(row_numbers, column_numbers, table, offset):
        return table[row_numbers, column_numbers + offset]

    def value_and_grad(symmetric, **options):
        loss = lambda q, t: ega_loss(q, t, temperature=0.1, symmetric=symmetric, **options)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(queries, targets)

    for symmetric in (False, True):
        chex.assert_trees_all_close(
            value_and_grad(symmetric, mask=mask_fn, mask_args=(jnp.asarray(mask), 0)),
            value_and_grad(symmetric, mask=mask),
            rtol=1e-6,
        )


def test_beta_zero_is_the_gradient_of_info_nce():
    queries, targets = batch(12, 12)

    def autodiff(queries, targets, temperature):
        queries = queries / jnp.linalg.norm(queries, axis=1, keepdims=True)
        targets = targets / jnp.linalg.norm(targets, axis=1, keepdims=True)
        logits = queries @ targets.T / temperature
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))

    expected = jax.value_and_grad(autodiff, (0, 1, 2))(queries, targets, 0.1)
    for loss in (
        info_nce_loss,
        lambda *a, **k: ega_loss(*a, **k, beta=0.0),
        lambda *a, **k: ega_loss(*a, **k, beta=jnp.float32(0.0)),
        lambda *a, **k: ega_loss(*a, **k, beta=jnp.float32(0.0), combine="rebalanced"),
    ):
        actual = jax.value_and_grad(lambda q, t, tau, loss=loss: loss(q, t, temperature=tau), (0, 1, 2))(
            queries, targets, 0.1
        )
        chex.assert_trees_all_close(actual, expected, rtol=2e-5, atol=2e-6)


def test_ega_differs_from_info_nce_in_gradient_alone():
    queries, targets = batch()
    ega = jax.jit(jax.value_and_grad(lambda q: ega_loss(q, targets, temperature=0.1)))(queries)
    nce = jax.jit(jax.value_and_grad(lambda q: info_nce_loss(q, targets, temperature=0.1)))(queries)
    chex.assert_trees_all_close(ega[0], nce[0], rtol=1e-6)
    assert np.abs(ega[1] - nce[1]).max() > 0.02 * np.abs(nce[1]).max()


def test_hardest_negative_is_amplified_and_never_shrunk():
    queries, targets = batch(num_rows=30, num_columns=60)
    for hardness in HARDNESS:
        _, stats = ega_loss(queries, targets, temperature=0.1, hardness=hardness, return_stats=True)
        assert np.all(stats.hardest_negative_amplification >= 1 - 1e-5)
        assert np.max(stats.hardest_negative_amplification) > 1.05


def test_cap_bites_and_is_counted():
    queries, targets = batch()
    options = {"alpha": 40.0, "beta": 2.0, "combine": "rebalanced", "log_weight_cap": 3.0}
    expected = assert_equals_definition(queries, targets, temperature=0.5, **options)
    assert expected.stats["capped_weight_count"].sum() > 3


def test_extreme_alpha_and_beta_stay_finite_when_normalized():
    queries, targets = batch()
    for alpha, beta in [(1e4, 1e30), (-1e4, 1e-30), (200.0, 1.0)]:
        gradient = jax.grad(ega_loss)(queries, targets, alpha=alpha, beta=beta)
        assert np.all(np.isfinite(gradient))


def test_defaults():
    assert DEFAULTS == (5.0, 1.0, "normalized")
    queries, targets = batch()
    chex.assert_trees_all_equal(
        jax.grad(ega_loss)(queries, targets),
        jax.grad(ega_loss)(queries, targets, alpha=5.0, beta=1.0, combine="normalized", temperature=0.02),
    )


@pytest.mark.parametrize("temperature", [0.02, 0.001])
def test_small_temperatures(temperature):
    queries, targets = batch(num_rows=64, num_columns=96, features=32, closeness=0.2)
    expected = reference.ega(queries, targets, temperature=temperature)
    assert expected.loss > 0.1
    value, (of_queries, of_targets) = jax.value_and_grad(lambda q, t: ega_loss(q, t, temperature=temperature), (0, 1))(
        queries, targets
    )
    # float32 similarities are off by 1e-7, logits by 1e-7 / τ.
    tolerance = 2e-7 / temperature
    np.testing.assert_allclose(value, expected.loss, rtol=tolerance)
    assert_gradients_close(of_queries, expected.queries, 4 * tolerance)
    assert_gradients_close(of_targets, expected.targets, 4 * tolerance)


def test_tiny_losses_keep_their_digits():
    """All but solved: a positive-inclusive log-sum-exp would return 0 here, and gradients of pure noise."""
    targets = np.eye(6, 8, dtype=np.float32)
    queries = targets + 0.01 * np.random.default_rng(0).normal(size=targets.shape).astype(np.float32)
    temperature = 0.04
    for combine in COMBINE:
        expected = reference.ega(queries, targets, temperature=temperature, combine=combine)
        assert 0 < expected.loss < 1e-9
        value, gradient = jax.value_and_grad(ega_loss)(queries, targets, temperature=temperature, combine=combine)
        np.testing.assert_allclose(value, expected.loss, rtol=1e-5)
        assert_gradients_close(gradient, expected.queries, 1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.02])
def test_bfloat16_inputs(temperature):
    """Products of rounded inputs are exact; the gradient's weights are rounded to bfloat16, and so is the
    result.

    Each rounding costs up to 2^-9 of a term, 1.7e-3 of a whole gradient in Euclidean norm: two of them in
    quadrature 2.4e-3, and more where the positive's term and the negatives' cancel.
    """
    queries, targets = (jnp.asarray(x, jnp.bfloat16) for x in batch(64, 96, 64))
    exact = reference.ega(queries.astype(jnp.float32), targets.astype(jnp.float32), temperature=temperature)
    value, gradients = jax.jit(jax.value_and_grad(lambda q, t: ega_loss(q, t, temperature=temperature), (0, 1)))(
        queries, targets
    )
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact.loss, rtol=1e-5)
    for actual, expected in zip(gradients, (exact.queries, exact.targets), strict=True):
        assert actual.dtype == jnp.bfloat16
        error = np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected)
        assert error < 3e-3


def test_float16_inputs_do_not_underflow():
    queries, targets = (jnp.asarray(x, jnp.float16) for x in batch(32, 48, 64))
    exact = reference.ega(queries.astype(jnp.float32), targets.astype(jnp.float32), temperature=0.1)
    gradient = jax.grad(lambda q: 1024 * ega_loss(q, targets, temperature=0.1))(queries)
    assert gradient.dtype == jnp.float16
    assert_gradients_close(gradient.astype(jnp.float32), 1024 * exact.queries, 1e-3)


def test_float64_inputs_are_computed_in_float64():
    queries, targets = (x.astype(np.float64) for x in batch())
    expected = reference.ega(queries, targets, temperature=0.01)
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(lambda q: ega_loss(q, jnp.asarray(targets), temperature=0.01))(
            jnp.asarray(queries)
        )
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, expected.loss, rtol=1e-12)
        np.testing.assert_allclose(gradient, expected.queries, rtol=1e-9, atol=1e-12)


def test_mixed_dtypes():
    queries, targets = batch()
    of_queries, of_targets = jax.grad(ega_loss, (0, 1))(jnp.asarray(queries, jnp.bfloat16), targets)
    assert (of_queries.dtype, of_targets.dtype) == (jnp.bfloat16, jnp.float32)
