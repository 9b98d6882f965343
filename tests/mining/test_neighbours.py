"""The nearest targets are those that numpy finds."""

import numpy as np
import pytest

from ega_jax.mining import neighbours
from ega_jax.mining.neighbours import nearest_targets


@pytest.mark.parametrize(("count", "block"), [(5, 256), (37, 2), (16, 1)])
def test_nearest_targets_are_those_of_numpy(count, block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)  # a device, of which there are eight
    generator = np.random.default_rng(count)
    queries, targets = (generator.normal(size=(n, 12)).astype(np.float32) for n in (count, 50))
    queries, targets = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, targets))
    excluded = [sorted(generator.choice(50, generator.integers(0, 7), replace=False).tolist()) for _ in range(count)]
    similarities, places = nearest_targets(queries, targets, excluded, 9)
    expected = queries.astype(np.float64) @ targets.astype(np.float64).T
    for row, out in enumerate(excluded):
        expected[row, out] = -np.inf
    np.testing.assert_array_equal(places, np.argsort(-expected, axis=1)[:, :9])
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, :9], rtol=0, atol=1e-6)


def test_fewer_targets_than_asked_for():
    rows = np.eye(3, dtype=np.float32)
    similarities, places = nearest_targets(rows, rows, [[0], [0, 1], [0, 1, 2]], 10)
    assert similarities.shape == places.shape == (3, 3)
    np.testing.assert_array_equal(np.isfinite(similarities).sum(1), [2, 1, 0])
