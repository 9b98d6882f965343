"""Every backend against float64 formulas, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.models.attention import attention
from ega_jax.models.layers import _REMAT_POLICIES
from ega_jax.plan.costs import costs_of
from ega_jax.plan.hlo import parse
from tests.models.attention import reference
from tests.models.attention.reference import with_gradients

LENGTH = 300  # two blocks of 128 queries, and a rest


@functools.cache
def case(name, head_dim=16):
    """(q, k, v, gradient of the result, options). Every query has a key; the result's gradient is 0 on padding."""
    rng = np.random.default_rng(0)
    q, pull = rng.normal(size=(2, 2, LENGTH, 6, head_dim)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, LENGTH, 2, head_dim)).astype(np.float32)
    ends = np.array([[210], [LENGTH]])
    mask = np.arange(LENGTH) < ends
    # Images of 100, 60 and 50 patches, then padding; one of 129 and one of 171.
    segments = np.stack([np.repeat([0, 1, 2, 3], [100, 60, 50, 90]), np.repeat([0, 1], [129, 171])])
    options = {
        "full": {"causal": False},
        "causal": {"causal": True},
        "causal, padded": {"causal": True, "key_mask": mask},
        "full, padded": {"causal": False, "key_mask": mask},
        "packed": {"causal": False, "segment_ids": segments},
        "packed, causal": {"causal": True, "segment_ids": segments},
        "packed, padded": {"causal": False, "segment_ids": segments, "key_mask": mask | (segments == 3)},
    }[name]
    if "padded" in name:
        pull = pull * mask[:, :, None, None]
    return q, k, v, pull, options


CASES = ("full", "causal", "causal, padded", "full, padded", "packed", "packed, causal", "packed, padded")


@pytest.mark.parametrize(
    ("name", "head_dim"),
    # and the head sizes of the towers: SigLIP's and NaViT's
    [*((name, 16) for name in CASES), ("full, padded", 72), ("packed, padded", 80), ("causal, padded", 128)],
)
@pytest.mark.parametrize("implementation", ["xla", "by_heads", "chunked"])
def test_equals_float64_reference(name, head_dim, implementation):
    q, k, v, pull, options = case(name, head_dim)
    attend = functools.partial(attention, **options, implementation=implementation)
    got = jax.jit(functools.partial(with_gradients, attend))(q, k, v, pull)
    seen = reference.visible(2, LENGTH, LENGTH, **options)
    expected = reference.attention(q, k, v, seen, pull)
    real = np.asarray(options.get("key_mask", np.ones((2, LENGTH), bool)))[..., None, None]
    for what, one, other in zip(("result", "q", "k", "v"), got, expected, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one * real, other * real, atol=2e-6 * scale, err_msg=what)
        assert np.isfinite(one).all()


@pytest.mark.parametrize("implementation", ["xla", "by_heads", "chunked"])
def test_softmax_is_float32_under_bfloat16(implementation):
    # Logits of 256 and 257: bfloat16 has no number between 256 and 258, and would weigh both keys alike.
    q = jnp.array([16, 16, 16, 2], jnp.bfloat16)[None, None, None]
    k = jnp.array([[8, 8, 16, 0], [8, 8, 16, 1]], jnp.bfloat16)[None, :, None]
    v = jnp.array([0.0, 1.0], jnp.bfloat16)[None, :, None, None] * jnp.ones(4, jnp.bfloat16)
    got = attention(q, k, v, causal=False, implementation=implementation)[0, 0, 0, 0]
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(got), 1 / (1 + np.exp(-1)), atol=0.003)


def test_chunked_adds_up_gradients_of_keys_in_float32():
    # Seen in the program, for XLA's CPU backend keeps a loop's bfloat16 sums in float32 by itself.
    qkv = [jax.ShapeDtypeStruct((1, LENGTH, 1, 8), jnp.bfloat16)] * 3
    attend = functools.partial(attention, causal=False, implementation="chunked")
    program = jax.make_jaxpr(functools.partial(with_gradients, attend))(*qkv, qkv[0])
    sums = [
        eqn.outvars[i].aval
        for eqn in program.eqns
        if eqn.primitive.name == "scan"
        for i in range(eqn.params["num_carry"])
        if eqn.outvars[i].aval.shape == qkv[0].shape
    ]
    assert [x.dtype for x in sums] == ["float32"] * 2


def test_causal_queries_meet_few_keys_behind_them():
    """Eight blocks of 1,024 queries: 36 of 64 blocks of logits, in both products, and so on the way back."""
    shape = jax.ShapeDtypeStruct((1, 1024, 2, 16), jnp.float32)

    def products(causal):
        attend = functools.partial(attention, causal=causal, implementation="xla")
        program = jax.jit(functools.partial(with_gradients, attend)).lower(*[shape] * 4).compile()
        return costs_of(parse(program.as_text()), [0]).flops

    assert products(causal=True) * 64 == products(causal=False) * 36 > 0


def test_blocks_of_causal_queries_add_up_gradients_of_keys_in_float32():
    qkv = [jax.ShapeDtypeStruct((1, LENGTH, 1, 8), jnp.bfloat16)] * 3
    attend = functools.partial(attention, causal=True, implementation="xla")
    program = jax.make_jaxpr(functools.partial(with_gradients, attend))(*qkv, qkv[0])
    sums = [
        eqn.outvars[0].aval.dtype
        for eqn in program.eqns
        if eqn.primitive.name == "add_any" and eqn.outvars[0].aval.shape == qkv[0].shape
    ]
    assert sums == ["float32"] * 2


@pytest.mark.parametrize(("heads", "together"), [(4, 2), (3, 1)])
def test_by_heads_makes_the_logits_of_few_heads_at_once(heads, together):
    """SigLIP's 729 patches: of as many key heads as fit and divide all, forward and backward."""
    shape = jax.ShapeDtypeStruct((2, 729, heads, 72), jnp.float32)
    attend = functools.partial(attention, causal=False, implementation="by_heads")
    memory = jax.jit(functools.partial(with_gradients, attend)).lower(*[shape] * 4).compile().memory_analysis()
    logits = together * 729**2 * 4
    beside = 12 * shape.size * 4  # queries, keys, values and the result, turn by turn, and their gradients
    assert logits < memory.temp_size_in_bytes < 2.5 * logits + beside < 8 * 729**2 * heads * 4


def test_layers_that_keep_products_keep_what_attention_mixed():
    """Forward two products, backward four and the logits again; the mixed values once more where nothing is kept."""
    shape = jax.ShapeDtypeStruct((1, 64, 2, 16), jnp.float32)

    def products(policy):
        attend = functools.partial(attention, causal=False, implementation="xla")

        def layer(q, k, v):
            # What comes next needs the mixed values on the way back.
            return jnp.sin(jax.checkpoint(lambda *qkv: jnp.sin(attend(*qkv)), policy=policy)(q, k, v)).sum()

        program = jax.jit(jax.grad(layer, (0, 1, 2))).lower(*[shape] * 3).compile()
        return costs_of(parse(program.as_text()), [0]).flops / (2 * 64 * 64 * 2 * 16)

    assert products(_REMAT_POLICIES["full"]) == 8
    assert products(_REMAT_POLICIES["dots"]) == 7


def test_no_dense_logits_at_real_lengths():
    """12,288 packed patches, in the gradient's program: no array as large as one head's logits."""
    shape = jax.ShapeDtypeStruct((1, 12288, 2, 80), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((1, 12288), jnp.int32)

    def gradient(q, k, v, segment_ids):
        return jax.grad(lambda *qkv: attention(*qkv, causal=False, segment_ids=segment_ids).sum(), (0, 1, 2))(q, k, v)

    memory = jax.jit(gradient).lower(shape, shape, shape, segments).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 12288**2 * 4 / 4


def test_names_what_it_cannot_do():
    q, k = jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 2, 4))
    with pytest.raises(ValueError, match="3 query heads do not divide among 2"):
        attention(q, k, k, causal=True)
    with pytest.raises(ValueError, match=r"'flash'.*known: auto, xla, by_heads, chunked, cudnn, splash"):
        attention(q, q, q, causal=True, implementation="flash")
    with pytest.raises(ValueError, match=r"segment_ids \(1, 3\) are not those of \(1, 2\) queries"):
        attention(q, q, q, causal=False, segment_ids=jnp.zeros((1, 3), int))


@pytest.mark.parametrize("implementation", ["xla", "by_heads", "chunked", "cudnn", "splash"])
@pytest.mark.parametrize("shape", [(0, 9, 2, 8), (1, 0, 2, 8)])
def test_nothing_attends_to_nothing(implementation, shape):
    q = jnp.zeros(shape, jnp.bfloat16)
    assert attention(q, q, q, causal=False, implementation=implementation).shape == shape
