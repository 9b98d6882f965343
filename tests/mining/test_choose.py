"""The rules by which neighbours become negatives."""

import numpy as np
import pytest

from ega_jax.errors import BadInputError
from ega_jax.mining.choose import MiningSettings, choose

SIMILARITIES = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, -np.inf], np.float32)


def places(positive=1.0, wanted=3, row=0, **settings):
    chosen = choose(SIMILARITIES, positive, wanted, MiningSettings(**settings), row)
    return chosen.places, chosen.false_negatives


def test_what_is_too_near_to_the_positive_is_left_out():
    assert places(relative_margin=-1) == ([0, 1, 2], 0)
    assert places(relative_margin=0.1) == ([1, 2, 3], 1)  # 0.9 may still be one
    assert places(positive=0.8, relative_margin=0.05) == ([3, 4, 5], 3)
    assert places(margin=0.25, relative_margin=-1) == ([3, 4, 5], 3)
    assert places(margin=0.25, relative_margin=0.5) == ([5, 6], 5)  # the stricter of the two
    # A positive that is not near at all: 5 % below -0.2 is -0.21.
    assert choose(np.float32([-0.1, -0.205, -0.3]), -0.2, 3, MiningSettings(), 0) == ([2], 2)


def test_only_ranks_of_the_window_count():
    assert places(relative_margin=-1, first_rank=3, last_rank=4) == ([2, 3], 0)
    assert places(relative_margin=0.1, first_rank=2, last_rank=5, wanted=9) == ([1, 2, 3, 4], 0)
    assert places(relative_margin=-1, first_rank=7, last_rank=50) == ([6], 0)  # -inf is no neighbour


def test_a_draw_is_the_same_again_and_differs_by_row():
    drawn = [tuple(places(relative_margin=-1, choice="random", row=row)[0]) for row in range(20)]
    assert drawn == [tuple(places(relative_margin=-1, choice="random", row=row)[0]) for row in range(20)]
    assert len(set(drawn)) > 5
    assert all(list(one) == sorted(set(one)) and len(one) == 3 and max(one) < 7 for one in drawn)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(BadInputError, match="negatives"):
        MiningSettings(negatives=0)
    with pytest.raises(BadInputError, match="1 <= first <= last"):
        MiningSettings(first_rank=5, last_rank=4)
