"""Vectors in fewer bytes keep their directions as well as is said."""

import numpy as np
import pytest

from ega_jax.vectors.precision import decode_vectors, encode_vectors


@pytest.fixture(scope="module")
def vectors():
    rows = np.random.default_rng(0).normal(size=(200, 256)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("precision", "size", "least_cosine"),
    [("float32", 1024, 1 - 1e-6), ("float16", 512, 1 - 1e-6), ("int8", 256, 0.9999)],
)
def test_directions_are_kept(vectors, precision, size, least_cosine):
    stored = encode_vectors(vectors, precision)
    assert stored[0].nbytes == size
    decoded = decode_vectors(stored, precision)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-5)
    assert (decoded * vectors).sum(1).min() >= least_cosine


def test_binary_keeps_the_signs(vectors):
    stored = encode_vectors(vectors, "binary")
    assert stored.dtype == np.uint8
    assert stored.shape == (200, 32)
    assert stored[3, 0] >> 7 == (vectors[3, 0] > 0)
    np.testing.assert_array_equal(np.sign(decode_vectors(stored, "binary")), np.where(vectors > 0, 1, -1))
    with pytest.raises(ValueError, match="8 divides"):
        encode_vectors(vectors[:, :12], "binary")


def test_a_zero_vector_stays_finite():
    zero = np.zeros((1, 8), np.float32)
    assert np.isfinite(decode_vectors(encode_vectors(zero, "int8"), "int8")).all()
