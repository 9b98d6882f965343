"""What cuDNN is asked for. Its kernel needs a GPU; XLA's attention takes the same arguments and stands in for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.models.attention import _choose, attention

LENGTH = 50


@pytest.fixture
def calls(monkeypatch):
    """The keyword arguments of each call of `jax.nn.dot_product_attention`, which runs by XLA instead."""
    seen = []
    real = jax.nn.dot_product_attention

    def stand_in(*args, implementation, **options):
        seen.append({"implementation": implementation, **options})
        return real(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    return seen


def arrays(head_dim=16, dtype=jnp.bfloat16, length=LENGTH):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(3, length, 4, head_dim))
    k, v = rng.normal(size=(2, 3, length, 2, head_dim))
    return [jnp.asarray(x, dtype) for x in (q, k, v)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_is_asked_for_the_same_attention(calls, causal, padded):
    mask = jnp.arange(LENGTH) < jnp.array([[31], [LENGTH], [1]]) if padded else None
    attend = functools.partial(attention, causal=causal, key_mask=mask)
    got = attend(*arrays(), implementation="cudnn")
    (options,) = calls
    assert options["implementation"] == "cudnn"
    assert options["is_causal"] == causal
    lengths = options["key_value_seq_lengths"]
    assert lengths is None if not padded else (lengths.dtype == jnp.int32 and lengths.tolist() == [31, LENGTH, 1])
    real = 1 if mask is None else mask[..., None, None]
    expected = attend(*[x.astype(jnp.float32) for x in arrays()], implementation="xla")
    np.testing.assert_allclose(got.astype(jnp.float32) * real, expected * real, atol=2**-7)


def test_odd_lengths_are_padded(calls):
    """729 patches a SigLIP tile: cuDNN's gradient takes even lengths alone."""
    q, k, v = arrays(length=9)
    got = attention(q, k, v, causal=False, implementation="cudnn")
    assert calls[0]["query_seq_lengths"].tolist() == calls[0]["key_value_seq_lengths"].tolist() == [9, 9, 9]
    expected = attention(*(x.astype(jnp.float32) for x in (q, k, v)), causal=False, implementation="xla")
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=2**-7)


def test_a_row_padded_elsewhere_is_nan_and_a_row_of_padding_is_not(calls):
    mask = np.ones((3, LENGTH), bool)
    mask[0, :5] = mask[1] = False
    got = np.asarray(attention(*arrays(), causal=True, key_mask=jnp.asarray(mask), implementation="cudnn"), np.float32)
    assert np.isnan(got[0]).all()
    assert np.isfinite(got[1:]).all()
    assert calls[0]["key_value_seq_lengths"].tolist() == [LENGTH - 5, 1, LENGTH]


def test_packed_rows_go_by_chunks(calls):
    segments = jnp.repeat(jnp.array([[0, 1]]), LENGTH // 2, axis=1).repeat(3, axis=0)
    attend = functools.partial(attention, *arrays(), causal=False, segment_ids=segments)
    np.testing.assert_array_equal(attend(implementation="cudnn"), attend(implementation="chunked"))
    assert not calls


def test_names_what_it_does_not_take():
    with pytest.raises(ValueError, match=r"float32 and 16; set model\.dtype to 'bfloat16' or model\.attention"):
        attention(*arrays(dtype=jnp.float32), causal=True, implementation="cudnn")
    with pytest.raises(ValueError, match="bfloat16 and 12"):
        attention(*arrays(12), causal=True, implementation="cudnn")


def test_the_platform_chooses():
    def chosen(platform, length=64, head_dim=64, dtype=jnp.bfloat16, causal=True, packed=False):
        q = jax.ShapeDtypeStruct((1, length, 2, head_dim), dtype)
        return _choose(platform, q, length, causal=causal, packed=packed)

    assert chosen("tpu") == chosen("tpu", packed=True) == "splash"
    assert chosen("gpu") == chosen("gpu", head_dim=72) == "cudnn"
    assert chosen("gpu", dtype=jnp.float32) == chosen("gpu", head_dim=12) == chosen("gpu", packed=True) == "xla"
    assert chosen("cpu") == chosen("cpu", 2048) == chosen("cpu", 256, causal=False) == "xla"
    assert chosen("cpu", 257, causal=False) == chosen("cpu", 2048, causal=False, packed=True) == "by_heads"
    assert chosen("gpu", 729, causal=False, dtype=jnp.float32) == "xla"
    assert chosen("cpu", 2049) == chosen("cpu", 2049, causal=False) == chosen("gpu", 12288, packed=True) == "chunked"
