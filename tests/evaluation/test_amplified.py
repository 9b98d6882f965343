"""What is kept of the pairs that a loss amplifies: the right negatives, the loss's own numbers, in order."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from ega_jax.commands.train import loss_stats
from ega_jax.data.pipeline import BatchSides
from ega_jax.data.records import Side
from ega_jax.evaluation.amplified import LARGEST, LEAST_ROWS, LOSS_OPTIONS, SPREAD, amplified, hardest_pairs
from ega_jax.training.config import LossSettings

from .synthetic_subsets import TableEncoder, unit_rows

ROWS = 40
LOSS = dataclasses.asdict(LossSettings(temperature=0.1, alpha=3.0, beta=2.0))
OPTIONS = {name: LOSS[name] for name in LOSS_OPTIONS}


class Batches:
    """Batches of random vectors with an explicit negative a row, a row that holds nothing, and rows of one answer."""

    def __init__(self):
        self.table, self.asked = {}, []

    def sides_of(self, step):
        self.asked.append(step)
        random = np.random.default_rng(step)
        queries = [Side(f"{step} query {row}") for row in range(ROWS - 1)]
        targets = [Side(f"{step} target {row}") for row in range(ROWS - 1)]
        extra = [Side(f"{step} extra {row}") if row % 2 else None for row in range(ROWS)]
        targets[1] = targets[0]
        sides = [*queries, *targets, *(side for side in extra if side is not None)]
        self.table |= {side.text: row for side, row in zip(sides, unit_rows(random, len(sides), 8), strict=True)}
        ids = np.arange(ROWS, dtype=np.int32)
        ids[1] = 0
        plan = SimpleNamespace(
            positives=np.arange(ROWS, dtype=np.int32),
            query_ids=ids,
            target_ids=np.concatenate([ids, ROWS + np.arange(ROWS, dtype=np.int32)]),
            target_mask=np.asarray([side is not None for side in [*targets, None, *extra]]),
            weights=(np.arange(ROWS) < ROWS - 1).astype(np.float32),
        )
        return BatchSides(["even", "odd"] * (ROWS // 2), [*queries, None], [*targets, None, *extra], plan)


def by_hand(batches, sides):
    """Each query's hardest negative and its amplification in the normalised combination, by the formulas alone."""
    found = {}
    for row, query in enumerate(sides.queries):
        if query is None:
            continue
        similarities, keep = [], []
        for column, target in enumerate(sides.targets):
            if target is None:
                continue
            positive = column == sides.plan.positives[row]
            if positive or sides.plan.target_ids[column] != sides.plan.query_ids[row]:
                similarities.append(float(batches.table[query.text].astype(float) @ batches.table[target.text]))
                keep.append((column, positive))
        own = next(s for s, (_, positive) in zip(similarities, keep, strict=True) if positive)
        p = np.exp(np.asarray(similarities) / LOSS["temperature"])
        weights = [
            1.0 if positive else 1.0 + LOSS["beta"] * np.exp(LOSS["alpha"] * (s - own))
            for s, (_, positive) in zip(similarities, keep, strict=True)
        ]
        ratio = np.asarray(weights) * p.sum() / (weights * p).sum()
        best = max((s, place) for place, s in enumerate(similarities) if not keep[place][1])[1]
        found[row] = (keep[best][0], own, similarities[best], ratio[best])
    return found


def test_the_hardest_negative_and_its_amplification_are_those_of_the_formulas():
    batches = Batches()
    sides = batches.sides_of(3)
    expected = by_hand(batches, sides)
    pairs = hardest_pairs(TableEncoder(batches.table), loss_stats, sides, OPTIONS)
    assert pairs.query.tolist() == list(expected)
    assert pairs.negative.tolist() == [column for column, *_ in expected.values()]
    for found, place in ((pairs.positive_similarity, 1), (pairs.negative_similarity, 2), (pairs.amplification, 3)):
        np.testing.assert_allclose(found, [row[place] for row in expected.values()], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("beta", [2.0, 0.0])
def test_the_most_amplified_come_first_and_others_at_even_distances(beta):
    batches = Batches()
    told = json.loads(amplified(TableEncoder(batches.table), loss_stats, batches, 9, {**LOSS, "beta": beta}))
    assert batches.asked == list(range(8, 8 - len(batches.asked), -1))
    assert LEAST_ROWS <= told["rows"] == len(batches.asked) * (ROWS - 1) < LEAST_ROWS + ROWS
    assert (told["first_step"], told["last_step"]) == (10 - len(batches.asked), 9)
    places = [pair["place"] for pair in told["pairs"]]
    assert places[:LARGEST] == list(range(1, LARGEST + 1))
    gaps = np.diff(places[LARGEST:])
    assert len(places) == LARGEST + SPREAD
    assert len(set(gaps)) == 1
    assert places[-1] > 0.8 * told["rows"]
    order = [pair["amplification"] for pair in told["pairs"]]
    if not beta:
        assert set(order) == {1.0}
        order = [pair["negative_similarity"] - pair["positive_similarity"] for pair in told["pairs"]]
    assert order == sorted(order, reverse=True)
    for pair in told["pairs"]:
        step, _, row = pair["query"]["text"].split()
        assert pair["positive"]["text"].startswith(f"{step} target ")
        assert pair["negative"]["text"] not in (pair["positive"]["text"], f"{step} target {row}")
        assert pair["subset"] == ("odd" if int(row) % 2 else "even")


def test_a_first_step_has_no_batch_before_it():
    batches = Batches()
    assert json.loads(amplified(TableEncoder(batches.table), loss_stats, batches, 1, LOSS))["rows"] == ROWS - 1
    assert batches.asked == [0]
