"""What the docstring of `ega_loss` promises beyond its formulas: padding, errors, single differentiation."""

import functools
import subprocess
import sys
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.losses import ega, ega_loss, info_nce_loss

from .test_ega import assert_gradients_close, batch


def jitted_value_and_grad(**static):
    """Over queries and targets; arrays in `static` become constants."""
    return jax.jit(jax.value_and_grad(functools.partial(ega_loss, temperature=0.1, **static), (0, 1)))


@pytest.mark.parametrize("symmetric", [False, True])
def test_padding_of_nan_changes_nothing(symmetric):
    queries, targets = batch(5, 8)
    expected = jitted_value_and_grad(symmetric=symmetric)(queries, targets)
    # Rows 5 and 6 are padding, and so are their targets; the extra columns move behind them.
    nan = np.full((2, 5), np.nan, np.float32)
    padded = jitted_value_and_grad(
        symmetric=symmetric,
        weights=np.array([1, 1, 1, 1, 1, 0, 0], np.float32),
        target_mask=np.array([True] * 5 + [False] * 2 + [True] * 3),
    )(np.concatenate([queries, nan]), np.concatenate([targets[:5], nan, targets[5:]]))
    (value, (of_queries, of_targets)) = padded
    chex.assert_trees_all_equal((of_queries[5:], of_targets[5:7]), (np.zeros((2, 5)), np.zeros((2, 5))))
    unpadded = (value, (of_queries[:5], np.delete(of_targets, [5, 6], axis=0)))
    chex.assert_trees_all_close(unpadded, expected, rtol=1e-5, atol=1e-6)


def test_own_negatives_of_weight_zero_may_hold_nan():
    queries, targets = batch()
    negatives = np.random.default_rng(3).normal(size=(7, 2, 5)).astype(np.float32)
    step = jax.jit(
        jax.value_and_grad(
            lambda q, t, n, w: ega_loss(q, t, negatives=n, negative_weights=w, temperature=0.1), (0, 1, 2)
        )
    )
    expected = step(queries, targets, negatives, np.ones((7, 2), np.float32))
    padded = np.concatenate([negatives, np.full((7, 1, 5), np.nan, np.float32)], axis=1)
    weights = np.concatenate([np.ones((7, 2)), np.zeros((7, 1))], axis=1).astype(np.float32)
    value, (of_queries, of_targets, of_negatives) = step(queries, targets, padded, weights)
    assert np.all(of_negatives[:, 2] == 0)
    actual = (value, (of_queries, of_targets, of_negatives[:, :2]))
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_own_negatives_equal_masked_shared_ones():
    queries, targets = batch()
    negatives = np.random.default_rng(3).normal(size=(7, 2, 5)).astype(np.float32)
    own_columns = np.repeat(np.eye(7, dtype=bool), 2, axis=1)
    mask = np.concatenate([np.ones((7, 11), bool), own_columns], axis=1)
    own = jax.grad(lambda n: ega_loss(queries, targets, negatives=n, temperature=0.1))(negatives)
    shared = jax.grad(lambda n: ega_loss(queries, targets, negatives=n.reshape(14, 5), mask=mask, temperature=0.1))(
        negatives
    )
    chex.assert_trees_all_close(own, shared, rtol=1e-5, atol=1e-6)


def test_top_k_keeps_ties_and_never_brings_back_what_is_masked():
    queries, targets = batch()
    targets[8] = targets[9]
    _, stats = ega_loss(queries, targets, top_k=1, temperature=0.1, return_stats=True)
    assert set(np.asarray(stats.negative_count)) <= {1, 2}
    mask = np.arange(11) >= np.arange(7)[:, None] + 9
    _, stats = ega_loss(queries, targets, top_k=3, mask=mask, temperature=0.1, return_stats=True)
    np.testing.assert_array_equal(stats.negative_count, [2, 1, 0, 0, 0, 0, 0])


def test_the_positive_counts_whatever_the_masks_say():
    queries, targets = batch()
    nothing = {
        "mask": np.zeros((7, 11), bool),
        "target_mask": np.zeros(11, bool),
        "query_ids": np.zeros(7, int),
        "target_ids": np.zeros(11, int),
    }
    for name in ("mask", "target_mask"):
        value, gradients = jitted_value_and_grad(**{name: nothing[name]})(queries, targets)
        chex.assert_trees_all_equal((value, gradients), jax.tree.map(jnp.zeros_like, (value, gradients)))
    ids = {name: nothing[name] for name in ("query_ids", "target_ids")}
    value, gradients = jitted_value_and_grad(**ids)(queries, targets)
    chex.assert_trees_all_equal((value, gradients), jax.tree.map(jnp.zeros_like, (value, gradients)))
    # Target 0 left out as a negative, yet pulled as the positive of row 0.
    target_mask = np.arange(11) > 0
    _, (_, of_targets) = jitted_value_and_grad(target_mask=target_mask)(queries, targets)
    assert np.abs(of_targets[0]).max() > 1e-3


@pytest.mark.parametrize("combine", ["normalized", "rebalanced"])
def test_no_negatives_at_all(combine):
    queries, targets = batch(1, 1)
    loss, stats = ega_loss(queries, targets, combine=combine, return_stats=True)
    assert loss == 0
    assert stats.hardest_negative_similarity[0] == -np.inf
    assert (stats.negative_count[0], stats.effective_negatives[0], stats.positive_pull[0]) == (0, 0, 0)
    assert stats.hardest_negative_amplification[0] == 1
    assert stats.means()["hardest_negative_similarity"] == 0
    chex.assert_trees_all_equal(jax.grad(ega_loss)(queries, targets), np.zeros_like(queries))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weights_that_sum_to_zero(reduction):
    queries, targets = batch()
    value, gradients = jitted_value_and_grad(weights=np.zeros(7), reduction=reduction, symmetric=True)(
        np.full_like(queries, np.nan), targets
    )
    chex.assert_trees_all_equal((value, gradients), jax.tree.map(jnp.zeros_like, (value, gradients)))


def test_duplicate_targets_are_false_negatives_unless_ids_say_so():
    queries, targets = batch(6, 6)
    targets[3] = targets[0]
    ids = np.array([0, 1, 2, 0, 4, 5])
    _, plain = ega_loss(queries, targets, temperature=0.1, return_stats=True)
    _, masked = ega_loss(queries, targets, temperature=0.1, query_ids=ids, target_ids=ids, return_stats=True)
    assert plain.loss[0] > np.log(2) - 1e-5 > masked.loss[0]
    np.testing.assert_array_equal(masked.negative_count, [4, 5, 5, 4, 5, 5])


def test_rows_of_zeros_get_no_gradient():
    queries, targets = batch()
    queries[2], targets[1] = 0, 0
    value, (of_queries, of_targets) = jitted_value_and_grad()(queries, targets)
    assert np.isfinite(value)
    chex.assert_trees_all_equal((of_queries[2], of_targets[1]), (np.zeros(5), np.zeros(5)))
    assert np.all(np.isfinite(of_queries))
    assert np.all(np.isfinite(of_targets))


def test_positive_out_of_range_is_nan_not_a_wrong_number():
    queries, targets = batch()
    for bad in (11, -1):
        positives = np.array([0, 1, bad, 3, 4, 5, 6])
        assert np.isnan(ega_loss(queries, targets, positives=positives))
        weights = np.array([1, 1, 0, 1, 1, 1, 1], np.float32)
        assert np.isfinite(ega_loss(queries, targets, positives=positives, weights=weights))


def test_a_broken_promise_of_distinct_positives_is_nan():
    queries, targets = batch()
    options = {"positives": np.array([0, 1, 2, 3, 4, 5, 0]), "symmetric": True, "distinct_positives": True}
    assert np.isnan(ega_loss(queries, targets, **options))
    assert np.isfinite(ega_loss(queries, targets, **options, weights=np.array([1, 1, 1, 1, 1, 1, 0], np.float32)))


def test_second_derivatives_raise():
    queries, targets = batch()

    def squared_gradient(queries):
        return jnp.sum(jax.grad(ega_loss)(queries, targets) ** 2)

    with pytest.raises(NotImplementedError, match="differentiable once"):
        jax.jit(jax.grad(squared_gradient))(queries)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jit(lambda q: jax.jvp(lambda q: ega_loss(q, targets), (q,), (q,)))(queries)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jit(jax.hessian(lambda q: ega_loss(q, targets)))(queries)


def test_alpha_beta_weights_and_statistics_get_zero_gradients():
    queries, targets = batch()

    def loss(alpha, beta, weights, margin):
        return ega_loss(queries, targets, alpha=alpha, beta=beta, weights=weights, false_negative_margin=margin)

    arguments = (jnp.float32(5), jnp.float32(0), jnp.linspace(0.0, 1.0, 7), jnp.float32(0.5))
    gradients = jax.grad(loss, (0, 1, 2, 3))(*arguments)
    chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, arguments))

    def of_stats(queries):
        return sum(jnp.sum(x) for x in jax.tree.leaves(ega_loss(queries, targets, return_stats=True)[1]))

    chex.assert_trees_all_equal(jax.grad(of_stats)(queries), np.zeros_like(queries))


def test_cotangent_scales_the_gradient():
    queries, targets = batch()
    once = jax.grad(ega_loss)(queries, targets)
    chex.assert_trees_all_close(jax.grad(lambda q: -3.0 * ega_loss(q, targets))(queries), -3.0 * once)


def test_unnormalized_warns_once():
    queries, targets = batch()
    ega._warn_of_unnormalized.cache_clear()
    with pytest.warns(UserWarning, match="diverged") as record:
        ega_loss(queries, targets, combine="unnormalized")
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ega_loss(queries, targets, combine="unnormalized")


def test_stats_means_ignore_padding():
    queries, targets = batch()
    weights = np.array([2, 1, 0, 1, 0, 1, 1], np.float32)
    loss, stats = ega_loss(queries, targets, weights=weights, return_stats=True)
    np.testing.assert_allclose(stats.means()["loss"], loss, rtol=1e-6)
    expected = np.average(stats.positive_similarity, weights=weights)
    np.testing.assert_allclose(stats.means()["positive_similarity"], expected, rtol=1e-5)


Q, T = batch()
BAD_CALLS = {
    "one-dimensional": ({"queries": Q[0]}, ValueError, "queries must have shape"),
    "features": ({"targets": T[:, :4]}, ValueError, "equally many features"),
    "negatives' features": ({"negatives": T[:, :4]}, ValueError, "equally many features"),
    "negatives of other queries": ({"negatives": T[None]}, ValueError, "7 queries, but negatives of shape"),
    "negatives of four axes": ({"negatives": T[None, None]}, ValueError, "negatives must have shape"),
    "negative_weights of shared ones": (
        {"negatives": T, "negative_weights": np.ones(11)},
        ValueError,
        "left out by target_mask",
    ),
    "negative_weights' shape": (
        {"negatives": np.stack([Q, Q], axis=1), "negative_weights": np.ones((7, 3))},
        ValueError,
        r"negative_weights must have shape \(7, 2\)",
    ),
    "top_k": ({"top_k": 0}, ValueError, "top_k must be at least 1"),
    "block_size": ({"block_size": 0}, ValueError, "block_size must be at least 1"),
    "integers": ({"queries": Q.astype(int)}, TypeError, "queries must be floating"),
    "too few targets": ({"targets": T[:6]}, ValueError, "7 queries but only 6 targets"),
    "negatives do not replace targets": (
        {"targets": T[:6], "negatives": T},
        ValueError,
        "7 queries but only 6 targets",
    ),
    "empty": ({"queries": Q[:0]}, ValueError, "at least one"),
    "positives' shape": ({"positives": np.arange(6)}, ValueError, r"positives must have shape \(7,\)"),
    "positives' dtype": ({"positives": np.arange(7.0)}, TypeError, "positives must be integers"),
    "ids alone": ({"query_ids": np.arange(7)}, ValueError, "go together"),
    "ids' dtype": (
        {"query_ids": np.arange(7.0), "target_ids": np.arange(11)},
        TypeError,
        "query_ids must be integers",
    ),
    "target_mask's dtype": ({"target_mask": np.ones(11)}, TypeError, "target_mask must be booleans"),
    "mask's shape": ({"mask": np.ones((7, 7), bool)}, ValueError, r"mask must have shape \(7, 11\)"),
    "mask's dtype": ({"mask": np.ones((7, 11))}, TypeError, "mask must be boolean"),
    "mask_args alone": ({"mask_args": (1,)}, ValueError, "mask_args go with"),
    "mask function's dtype": ({"mask": lambda i, j: i - j}, TypeError, "must return booleans"),
    "mask function's shape": ({"mask": lambda i, j: (i != j)[:3]}, ValueError, "does not broadcast"),
    "weights' shape": ({"weights": np.ones(11)}, ValueError, r"weights must have shape \(7,\)"),
    "temperature": ({"temperature": 0.0}, ValueError, "temperature must be positive"),
    "temperature's shape": ({"temperature": np.ones(7)}, ValueError, "temperature must be a scalar"),
    "beta": ({"beta": -1}, ValueError, "beta must not be negative"),
    "alpha": ({"alpha": np.ones(2)}, ValueError, "alpha must be a scalar"),
    "hardness": ({"hardness": "soft"}, ValueError, "hardness must be one of"),
    "combine": ({"combine": "softmax"}, ValueError, "combine must be one of"),
    "reduction": ({"reduction": "none"}, ValueError, "reduction must be"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    options, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        ega_loss(**{"queries": Q, "targets": T, **options})


def test_mask_function_over_a_traced_array_is_refused():
    @jax.jit
    def closure(table):
        return ega_loss(Q, T, mask=lambda i, j: table[i, j])

    @jax.jit
    def partial(table):
        return ega_loss(Q, T, mask=functools.partial(lambda table, i, j: table[i, j], table))

    for function in (closure, partial):
        with pytest.raises(TypeError, match="pass the array through mask_args"):
            function(np.ones((7, 11), bool))


def test_import_costs_jax_alone():
    program = (
        "import sys, ega_jax; ega_jax.ega_loss; ega_jax.info_nce_loss;"
        "heavy = {'flax', 'optax', 'orbax', 'PIL', 'grain', 'transformers', 'tensorflow', 'torch', 'pyarrow',"
        " 'matplotlib', 'jaxtyping', 'chex'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_info_nce_takes_the_same_options():
    queries, targets = batch()
    options = {"weights": np.arange(7.0), "symmetric": True, "reduction": "sum", "temperature": 0.1}
    np.testing.assert_allclose(
        info_nce_loss(queries, targets, **options), ega_loss(queries, targets, **options), rtol=1e-6
    )
    gradient = jax.grad(lambda q: info_nce_loss(q, targets, **options))(queries)
    expected = jax.grad(lambda q: ega_loss(q, targets, **options, beta=0.0))(queries)
    assert_gradients_close(gradient, np.asarray(expected, np.float64), 1e-7)
