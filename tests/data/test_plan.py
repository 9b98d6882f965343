"""What a step takes of its rows: positives and negatives in turn, and labels under which nothing right is wrong."""

import itertools

import numpy as np
import pytest

from ega_jax.data.buckets import Buckets
from ega_jax.data.index import SideIndex, SubsetIndex
from ega_jax.data.mixture import NO_ROW, Rows, sample_rows
from ega_jax.data.plan import NOTHING, make_plan

BUCKETS = Buckets((8, 64), (0, 4))


def subset(rows):
    """The index of rows (query, positives, negatives), each item a number that is its length too."""

    def side(items):
        return SideIndex(np.asarray(items, int), np.zeros(len(items), int), np.asarray(items, int))

    queries, positives, negatives = zip(*rows, strict=True)
    return SubsetIndex(
        side(queries),
        side(list(itertools.chain(*positives))),
        side(list(itertools.chain(*negatives))),
        np.cumsum([0, *map(len, positives)]),
        np.cumsum([0, *map(len, negatives)]),
    )


INDEX = [
    subset([(10, [20], [30, 31, 32]), (11, [21, 22, 23], []), (12, [24], [33])]),
    subset([(13, [25], []), (14, [25], []), (15, [22], [])]),
]


def plan(subsets, rows, visits, groups=1, negatives_per_query=None):
    batch = Rows(np.asarray(subsets), np.asarray(rows), np.asarray(visits))
    return make_plan(batch, INDEX, BUCKETS, groups=groups, negatives_per_query=negatives_per_query)


def test_visits_take_positives_in_turn():
    items = [plan([0], [1], [visit]).targets.item[0] for visit in range(7)]
    assert items == [21, 22, 23, 21, 22, 23, 21]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (None, [[30, 31, 32], [30, 31, 32]]),
        (5, [[30, 31, 32], [30, 31, 32]]),
        (2, [[30, 31], [32, 30], [31, 32], [30, 31]]),
        (1, [[30], [31], [32], [30]]),
        (0, [[], []]),
    ],
)
def test_visits_take_negatives_in_turn(most, expected):
    for visit, items in enumerate(expected):
        planned = plan([0, 0], [0, 1], [visit, 0], negatives_per_query=most)
        assert planned.negatives == len(items)
        assert planned.targets.item.tolist() == [20, 21, *items, *[NOTHING] * len(items)]
        assert planned.target_mask.tolist() == [True, True, *[True] * len(items), *[False] * len(items)]


def test_a_short_list_of_negatives_is_padded_never_repeated():
    planned = plan([0, 0], [0, 2], [0, 5])
    assert planned.targets.item.tolist() == [20, 24, 30, 31, 32, 33, NOTHING, NOTHING]
    assert planned.draw.negatives.tolist() == [[0, 1, 2], [0, NOTHING, NOTHING]]


def test_places_without_a_row_weigh_nothing_and_equal_nothing():
    planned = plan([0, 0, 0, 0], [NO_ROW, 2, NO_ROW, 0], [1, 1, 1, 1], groups=2)
    assert planned.weights.tolist() == [0, 1, 0, 1]
    assert planned.negatives == 3
    # In each group its positives, then the three slots of each of its rows.
    expected = [NOTHING, 24, *[NOTHING] * 3, 33, *[NOTHING] * 2, NOTHING, 20, *[NOTHING] * 3, 30, 31, 32]
    assert planned.targets.item.tolist() == expected
    assert planned.target_mask.tolist() == [item != NOTHING for item in expected]
    assert planned.queries.item.tolist() == [NOTHING, 12, NOTHING, 10]
    real = planned.target_ids[planned.target_mask]
    assert not np.isin(planned.query_ids[[0, 2]], real).any()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_targets_stand_in_groups_whatever_the_order_of_the_subsets(groups):
    planned = plan([1, 0, 1, 0], [0, 0, 1, 2], [0, 0, 0, 0], groups)
    np.testing.assert_array_equal(planned.queries.item, [13, 10, 14, 12])
    np.testing.assert_array_equal(planned.targets.item[planned.positives], [25, 20, 25, 24])
    each = 4 // groups * (1 + planned.negatives)
    for group in range(groups):
        rows = range(group * 4 // groups, (group + 1) * 4 // groups)
        assert all(group * each <= planned.positives[row] < (group + 1) * each for row in rows)
    assert sorted(planned.targets.item[planned.target_mask].tolist()) == [20, 24, 25, 25, 30, 31, 32, 33]


def test_nothing_that_is_right_for_a_query_is_its_negative():
    planned = plan([0, 1, 1, 1], [1, 0, 1, 2], [0, 0, 0, 0])
    same = np.equal.outer(planned.query_ids, planned.target_ids[planned.positives])
    # Row 0 drew 21, but 22 of the last row is as right; the middle rows share their target.
    expected = [[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]
    np.testing.assert_array_equal(same, np.asarray(expected, bool))


def test_a_capped_subset_is_a_random_choice_of_the_seed():
    chosen = sample_rows(1000, 100, 0, "VOC2007")
    assert len(set(chosen.tolist())) == 100
    assert (np.diff(chosen) > 0).all()
    assert 300 < chosen.mean() < 700, "spread over all rows, not the first ones"
    np.testing.assert_array_equal(chosen, sample_rows(1000, 100, 0, "VOC2007"))
    for other in (sample_rows(1000, 100, 1, "VOC2007"), sample_rows(1000, 100, 0, "SUN397")):
        assert len(np.intersect1d(chosen, other)) < 40
    np.testing.assert_array_equal(sample_rows(5, 9, 0, "a"), range(5))
