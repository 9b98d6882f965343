"""Few programs hold every step, and pad as little as a few can."""

import itertools

import numpy as np
import pytest

from ega_jax.data.buckets import Bucket
from ega_jax.data.programs import Program, cheapest, choose_programs
from ega_jax.errors import BadInputError

TOKENS, UNITS = (64, 128, 256, 512), (0, 1, 5)


def random_steps(count, negatives=(0, 2), seed=0):
    random = np.random.default_rng(seed)

    def bucket():
        return Bucket(int(random.choice(TOKENS, p=[0.5, 0.3, 0.15, 0.05])), int(random.choice(UNITS)))

    return [Program(bucket(), bucket(), int(random.choice(negatives))) for _ in range(count)]


LARGEST = [Program(Bucket(512, 5), Bucket(512, 5), negatives) for negatives in (0, 2)]


@pytest.mark.parametrize("most", [2, 3, 8, 40, 1000])
def test_every_step_finds_a_program_and_they_are_few(most):
    steps = random_steps(60)
    programs = choose_programs(steps, LARGEST, most)
    assert len(programs) <= most
    for step in [*steps, *random_steps(200, seed=1)]:
        program = cheapest(programs, step)
        assert program.negatives == step.negatives
        assert all(
            a >= b for one, other in zip(program[:2], step[:2], strict=True) for a, b in zip(one, other, strict=True)
        )
    if most == 1000:
        assert all(cheapest(programs, step) == step for step in steps), "nothing is padded where all are allowed"


def test_more_programs_pad_less():
    steps = random_steps(60)
    chosen = [choose_programs(steps, LARGEST, most) for most in (2, 4, 8, 16, 64)]
    costs = [sum(cheapest(programs, step).cost for step in steps) for programs in chosen]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 1.5 * costs[3], "sixteen are worth much more than two"


def test_the_choice_does_not_depend_on_the_order_of_the_steps():
    steps = random_steps(20)
    expected = choose_programs(steps, LARGEST, 6)
    for order in itertools.islice(itertools.permutations(steps), 0, 5000, 1000):
        assert choose_programs(order, LARGEST, 6) == expected


def test_too_few_programs_are_refused():
    with pytest.raises(BadInputError, match=r"data\.max_programs 1: rows with 0, 2 explicit negatives"):
        choose_programs(random_steps(5), LARGEST, 1)
