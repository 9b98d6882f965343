"""In an epoch every row comes once, and what is left over at its end is empty, never a repeat."""

import collections

import numpy as np
import pytest

from ega_jax.data.epochs import Epochs
from ega_jax.data.mixture import NO_ROW

SIZES, LANES = [40, 101, 7, 64], ["a", "b", "a", "b"]


def epochs(**changes):
    return Epochs(SIZES, LANES, **{"batch_size": 16, "sub_batch_size": 8, "seed": 3} | changes)


@pytest.mark.parametrize(("batch_size", "sub_batch_size"), [(16, 8), (16, 16), (24, 4), (512, 256)])
def test_every_row_comes_once_an_epoch(batch_size, sub_batch_size):
    deal = epochs(batch_size=batch_size, sub_batch_size=sub_batch_size)
    for epoch in range(3):
        seen = collections.Counter()
        for step in range(epoch * deal.steps, (epoch + 1) * deal.steps):
            rows = deal(step)
            here = rows.row != NO_ROW
            assert here.any(), "no step is empty"
            assert (rows.visit == epoch).all()
            seen.update(zip(rows.subset[here].tolist(), rows.row[here].tolist(), strict=True))
        assert seen == {(subset, row): 1 for subset, size in enumerate(SIZES) for row in range(size)}


def test_the_padding_is_less_than_a_sub_batch_of_each_subset_and_a_step_of_each_lane():
    deal = epochs()
    empty = sum(int((deal(step).row == NO_ROW).sum()) for step in range(deal.steps))
    assert 0 < empty == deal.steps * 16 - sum(SIZES) < len(SIZES) * 8 + 2 * 16


def test_sub_batches_are_homogeneous_and_a_step_keeps_to_one_lane():
    deal = epochs()
    for step in range(2 * deal.steps):
        subset = deal(step).subset
        assert len({LANES[s] for s in subset}) == 1
        assert all(len(set(part)) == 1 for part in subset.reshape(-1, 8))


def test_is_a_pure_function_of_seed_and_step_and_every_epoch_has_an_order_of_its_own():
    forwards, backwards, other = epochs(), epochs(), epochs(seed=4)
    steps = range(3 * forwards.steps)
    ahead = [forwards(step) for step in steps]
    for step in reversed(steps):
        for one, again in zip(ahead[step], backwards(step), strict=True):
            np.testing.assert_array_equal(one, again)
    for shift in (1, 2):
        assert any((ahead[step].row != ahead[step + shift * forwards.steps].row).any() for step in range(4))
    assert any((ahead[step].row != other(step).row).any() for step in steps)


def test_refuses_what_cannot_be_dealt():
    with pytest.raises(ValueError, match="does not divide"):
        epochs(sub_batch_size=5)
    with pytest.raises(ValueError, match="at least one row"):
        Epochs([3, 0], ["a", "a"], batch_size=4, sub_batch_size=2, seed=0)
