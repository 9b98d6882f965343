"""The mixture is pure, fair and homogeneous."""

import collections

import numpy as np
import pytest

from ega_jax.data.mixture import Deck, Mixture

SIZES, LANES = [40, 100, 7, 64], ["a", "b", "a", "b"]


def mixture(**changes):
    options = {"batch_size": 16, "sub_batch_size": 8, "seed": 3} | changes
    return Mixture(SIZES, LANES, **options)


def test_is_a_pure_function_of_seed_and_step():
    forwards, backwards = mixture(), mixture()
    steps = list(range(60))
    ahead = {step: forwards(step) for step in steps}
    for step in reversed(steps):
        np.testing.assert_array_equal(ahead[step].row, backwards(step).row)
        np.testing.assert_array_equal(ahead[step].subset, backwards(step).subset)
    other = mixture(seed=4)
    assert any(not np.array_equal(ahead[step].row, other(step).row) for step in steps)


def test_sub_batches_are_homogeneous_and_a_step_keeps_to_one_lane():
    for step in range(80):
        rows = mixture()(step)
        assert len({LANES[s] for s in rows.subset}) == 1
        assert all(len(set(part)) == 1 for part in rows.subset.reshape(-1, 8))


def test_every_row_is_dealt_once_before_any_is_dealt_twice():
    deal = mixture(exponent=1.0)
    seen = collections.defaultdict(list)
    for step in range(200):
        rows = deal(step)
        for subset, row in zip(rows.subset, rows.row, strict=True):
            seen[int(subset)].append(int(row))
    for subset, rows in seen.items():
        size = SIZES[subset]
        assert len(rows) >= size, "the test must run over more than one pass"
        for start in range(0, len(rows) - size + 1, size):
            assert sorted(rows[start : start + size]) == list(range(size))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_subsets_are_drawn_in_proportion(exponent):
    deal = mixture(exponent=exponent)
    drawn = collections.Counter(int(s) for step in range(3000) for s in deal(step).subset)
    expected = np.asarray(SIZES, float) ** exponent
    expected /= expected.sum()
    share = np.array([drawn[s] for s in range(4)]) / sum(drawn.values())
    np.testing.assert_allclose(share, expected, atol=0.03)


def test_weights_multiply_the_shares():
    weights = [1.0, 0.5, 4.0, 1.5]
    deal = mixture(exponent=0.0, weights=weights)
    drawn = collections.Counter(int(s) for step in range(3000) for s in deal(step).subset)
    share = np.array([drawn[s] for s in range(4)]) / sum(drawn.values())
    np.testing.assert_allclose(share, np.array(weights) / sum(weights), atol=0.03)


def test_deck_counts_earlier_deals():
    deck, seen = Deck([3, 1, 2], (0,)), collections.Counter()
    for turn in range(60):
        item, earlier = deck.deal(turn)
        assert earlier == seen[item]
        seen[item] += 1
    assert seen == {0: 30, 1: 10, 2: 20}


@pytest.mark.parametrize(("changes", "message"), [({"sub_batch_size": 5}, "does not divide")])
def test_refuses_what_cannot_be_dealt(changes, message):
    with pytest.raises(ValueError, match=message):
        mixture(**changes)
    with pytest.raises(ValueError, match="at least one row"):
        Mixture([3, 0], ["a", "a"], batch_size=4, sub_batch_size=2, seed=0)
