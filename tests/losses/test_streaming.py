"""Row blocks change the memory, not the result."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from ega_jax.losses import blocks, ega_loss

from .test_ega import batch


def step(block_size, **options):
    def loss(queries, targets, temperature):
        return ega_loss(queries, targets, temperature=temperature, block_size=block_size, return_stats=True, **options)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


@pytest.mark.parametrize("block_size", [1, 6])
def test_any_block_size(block_size):
    arguments = (*batch(), jnp.float32(0.05))
    expected = step(None)(*arguments)
    chex.assert_trees_all_close(step(block_size)(*arguments), expected, rtol=1e-5, atol=1e-5)


def test_mask_function_sees_global_numbers():
    queries, targets = batch()
    mask = np.random.default_rng(0).random((7, 11)) < 0.5

    def mask_fn(row_numbers, column_numbers, table):
        return table[row_numbers, column_numbers]

    arguments = (queries, targets, jnp.float32(0.05))
    for symmetric in (False, True):
        expected = step(None, mask=mask, symmetric=symmetric)(*arguments)
        blocked = step(2, mask=mask_fn, mask_args=(mask,), symmetric=symmetric)(*arguments)
        chex.assert_trees_all_close(blocked, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_in_blocks():
    queries, targets = (jnp.asarray(x, jnp.bfloat16) for x in batch(32, 48, 16))
    dense, blocked = (
        jax.jit(jax.grad(lambda q, t, b=b: ega_loss(q, t, temperature=0.1, block_size=b), (0, 1)))(queries, targets)
        for b in (None, 5)
    )
    chex.assert_trees_all_close(blocked, dense, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_array_of_all_pairs(symmetric):
    """The compiled step's temporaries stay far below the N x M float32 logits."""
    size, features, block_size = 2048, 16, 64
    shape = jax.ShapeDtypeStruct((size, features), jnp.float32)

    def loss(queries, targets):
        return ega_loss(queries, targets, symmetric=symmetric, block_size=block_size, return_stats=True)

    logits_bytes, block_bytes, gradient_bytes = 4 * size**2, 4 * block_size * size, 4 * size * features
    for function in (loss, jax.value_and_grad(loss, (0, 1), has_aux=True)):
        memory = jax.jit(function).lower(shape, shape).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 5 * block_bytes + 12 * gradient_bytes < logits_bytes / 3


@pytest.mark.parametrize(
    ("size", "features", "limit_mib"), [(8192, 1024, 140), (32768, 1024, 400), (131072, 256, 2048)]
)
def test_memory_of_large_batches(size, features, limit_mib):
    """Temporaries of the compiled step with the default block; the logits alone would be 256 MiB, 4 GiB and 64 GiB."""
    shape = jax.ShapeDtypeStruct((size, features), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(ega_loss, (0, 1))).lower(shape, shape).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= limit_mib * 2**20


def count_products(jaxpr):
    """Counts products of two matrices, those of sub-programs included."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            _, batch_axes = equation.params["dimension_numbers"]
            count += batch_axes == ((), ())
        count += sum(count_products(inner) for inner in jaxprs_in_params(equation.params))
    return count


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize(
    ("options", "products"),
    [
        ({}, 3),
        ({"symmetric": True}, 4),
        ({"symmetric": True, "positives": np.arange(16), "distinct_positives": True}, 4),
    ],
)
def test_value_alone_costs_one_product_and_a_step_three_or_four(options, products, block_size):
    queries, targets = batch(16, 24)

    def loss(queries, targets):
        return ega_loss(queries, targets, block_size=block_size, **options)

    assert count_products(jax.make_jaxpr(loss)(queries, targets).jaxpr) == 1
    assert count_products(jax.make_jaxpr(jax.grad(loss, (0, 1)))(queries, targets).jaxpr) == products


def test_default_block_size():
    assert blocks.count_blocks(1024, 2048, None) == 1
    num_blocks = blocks.count_blocks(65536, 65536, None)
    assert 16 <= num_blocks <= 256
    assert blocks.count_blocks(10, 10, 3) == 4
    assert blocks.count_blocks(9, 10, 3) == 3


def test_scan_over_blocks():
    rows = {"a": jnp.arange(7.0), "b": jnp.arange(14.0).reshape(7, 2)}

    def function(block):
        return block["a"].sum(), {"doubled": 2 * block["b"], "first": block["a"][:1] * jnp.ones_like(block["a"])}

    for num_blocks in (1, 3):
        total, outputs = blocks.scan(function, rows, num_blocks)
        assert total == 21
        np.testing.assert_array_equal(outputs["doubled"], 2 * rows["b"])
    np.testing.assert_array_equal(outputs["first"], [0, 1, 2, 0, 1, 2, 0])
