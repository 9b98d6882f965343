"""The TPU kernel, interpreted: against float64 formulas."""

import functools

import jax
import numpy as np
import pytest

from ega_jax.models.attention.splash import splash_attention
from tests.models.attention import reference
from tests.models.attention.reference import arrays, with_gradients

splash = functools.partial(splash_attention, interpret=True)


def left(length):
    return np.arange(length) >= np.array([[40], [0]])


def packed(*lengths):
    ids = np.arange(len(lengths))
    return np.repeat(np.stack([ids, ids[::-1]]), lengths, axis=1)


CASES = {  # length, head size, key heads, options; 600 are five blocks of 128, the others one block
    "text": (600, 64, 2, {"causal": True, "key_mask": np.arange(600) < np.array([[430], [600]])}),
    "SigLIP": (196, 72, 4, {"causal": False}),
    "packed images": (
        256,
        80,
        4,
        {"causal": False, "segment_ids": np.repeat([[0, 1, 2], [2, 1, 0]], [99, 29, 128], 1)},
    ),
    "left padding": (130, 128, 1, {"causal": True, "key_mask": left(130)}),
    "everything": (
        130,
        16,
        2,
        {"causal": True, "key_mask": left(130), "segment_ids": packed(65, 65)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_float64_reference(name):
    length, head_dim, key_heads, options = CASES[name]
    q, k, v, pull = arrays(2, length=length, head_dim=head_dim, key_heads=key_heads)
    real = np.asarray(options.get("key_mask", np.ones((2, length), bool)))[..., None, None]
    pull = pull * real
    attend = functools.partial(splash, **{"key_mask": None, "segment_ids": None, **options})
    got = jax.jit(functools.partial(with_gradients, attend))(q, k, v, pull)
    seen = reference.visible(2, length, length, **options)
    seen |= ~real[:, :, 0] & np.eye(length, dtype=bool)  # queries that are padding need a key in the formulas
    expected = reference.attention(q, k, v, seen, pull)
    for what, one, other in zip(("result", "q", "k", "v"), got, expected, strict=True):
        np.testing.assert_allclose(one * real, other * real, atol=3e-6 * np.abs(other).max(), err_msg=what)
        assert np.isfinite(one).all()


def test_refuses_queries_that_are_not_the_keys():
    q, k, v, _ = arrays(1, length=8, head_dim=8)
    with pytest.raises(ValueError, match="as many keys as queries, got 7 and 8"):
        splash(q, k[:, :7], v[:, :7], causal=False, key_mask=None, segment_ids=None)
