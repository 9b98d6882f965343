"""`evaluate` on subsets whose right answer is known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ega_jax.data.records import EvalSubset, Side, SubsetInfo
from ega_jax.data.subsets import SUBSETS
from ega_jax.errors import BadInputError
from ega_jax.evaluation import NonFiniteEmbeddingError, encoding, evaluate
from ega_jax.evaluation.details import choose_examples

from .synthetic_subsets import TableEncoder, random_subset, unit_rows


def numpy_reference(subset, table):
    """Gold ranks by a full sort in float64, the gold candidate last among its equals."""
    ranks = []
    for query, pool in zip(subset.queries, subset.candidates, strict=True):
        vector = table[query.text].astype(np.float64)
        scores = [float(table[subset.targets[index].text].astype(np.float64) @ vector) for index in pool]
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place == 0))
        ranks.append(order.index(0) + 1)
    ranks = np.asarray(ranks)
    gains = [1 / np.log2(rank + 1) if rank <= 5 else 0 for rank in ranks]
    hits = {f"hit@{k}": np.mean(ranks <= k) for k in (1, 5, 10)}
    return ranks, {**hits, "mrr": np.mean(1 / ranks), "ndcg@5": np.mean(gains)}


def test_scores_equal_a_direct_reference():
    subset, table = random_subset(np.random.default_rng(0), queries=300, targets=90)
    results = evaluate(TableEncoder(table), [subset])
    ranks, metrics = numpy_reference(subset, table)
    (result,), (details,) = results.subsets, results.details
    assert details.ranks == ranks.tolist()
    assert result.scores.metrics == pytest.approx(metrics, abs=1e-12)
    sizes = np.asarray([len(pool) for pool in subset.candidates])
    assert (result.queries, result.pool_size) == (300, sizes.mean())
    assert result.scores.chance == pytest.approx(np.mean(1 / sizes))
    hit = metrics["hit@1"]
    assert result.scores.standard_error == pytest.approx((hit * (1 - hit) / 300) ** 0.5)


def test_a_perfect_encoder_scores_all():
    subset, table = random_subset(np.random.default_rng(1))
    for query, pool in zip(subset.queries, subset.candidates, strict=True):
        table[query.text] = table[subset.targets[pool[0]].text]
    (result,) = evaluate(TableEncoder(table), [subset]).subsets
    assert set(result.scores.metrics.values()) == {1.0}
    assert result.scores.standard_error == 0.0


def test_a_random_encoder_scores_chance():
    subset, table = random_subset(np.random.default_rng(2), queries=3000, targets=500)
    (result,) = evaluate(TableEncoder(table), [subset]).subsets
    assert 0.05 < result.scores.chance < 0.5
    assert abs(result.scores.hit_at_1 - result.scores.chance) < 4 * result.scores.standard_error


@pytest.mark.parametrize("dimensions", [1, 5, 64, 896])
def test_a_constant_encoder_scores_nothing(dimensions):
    subset, table = random_subset(np.random.default_rng(3))
    constant = unit_rows(np.random.default_rng(4), 1, dimensions)[0]
    (result,) = evaluate(TableEncoder(dict.fromkeys(table, constant)), [subset]).subsets
    assert result.scores.hit_at_1 == 0.0


def test_a_tie_with_one_candidate_costs_exactly_one_rank():
    sides = tuple(Side(text) for text in "abc")
    subset = EvalSubset(SubsetInfo("tied"), (Side("q"),), sides, (np.asarray([0, 1, 2], np.int32),))
    one, other = np.asarray([1.0, 0.0]), np.asarray([0.0, 1.0])
    (details,) = evaluate(TableEncoder({"q": one, "a": one, "b": one, "c": other}), [subset]).details
    assert details.ranks == [2]
    assert details.top == [[1, 0, 2]]
    assert (details.positive_similarity, details.hardest_negative_similarity) == ([1.0], [1.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["letters query 7", "letters target 11"])
def test_an_embedding_that_is_not_finite_is_an_error_that_names_the_item(bad, place):
    subset, table = random_subset(np.random.default_rng(5))
    table[place] = table[place].copy()
    table[place][3] = bad
    kind_and_row = place.removeprefix("letters ")
    with pytest.raises(NonFiniteEmbeddingError, match=rf"'letters', {kind_and_row} .*text '{place}'"):
        evaluate(TableEncoder(table), [subset])


def test_the_error_names_the_image_of_an_item():
    side = Side("<|image_1|>", (Path("images/broken.png"),))
    subset = EvalSubset(SubsetInfo("pictures"), (side,), (Side("a"),), (np.zeros(1, np.int32),))
    with pytest.raises(NonFiniteEmbeddingError, match=r"images/broken\.png"):
        evaluate(lambda sides: np.full((len(sides), 4), np.nan), [subset])


def test_order_of_candidates_changes_nothing():
    rng = np.random.default_rng(6)
    subset, table = random_subset(rng, queries=80)
    table["letters target 8"] = table["letters target 3"]  # a tie among candidates
    shuffled = dataclasses.replace(
        subset,
        candidates=tuple(np.concatenate([pool[:1], rng.permutation(pool[1:])]) for pool in subset.candidates),
    )
    assert evaluate(TableEncoder(table), [shuffled]) == evaluate(TableEncoder(table), [subset])


def test_order_of_queries_changes_no_rank():
    rng = np.random.default_rng(7)
    subset, table = random_subset(rng, queries=80)
    order = rng.permutation(80)
    permuted = dataclasses.replace(
        subset,
        queries=tuple(subset.queries[row] for row in order),
        candidates=tuple(subset.candidates[row] for row in order),
    )
    before, after = evaluate(TableEncoder(table), [subset]), evaluate(TableEncoder(table), [permuted])
    assert after.details[0].ranks == [before.details[0].ranks[row] for row in order]
    assert after.subsets == before.subsets


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_number_of_items_a_call_changes_nothing(monkeypatch, size):
    subset, table = random_subset(np.random.default_rng(8))
    expected = evaluate(TableEncoder(table), [subset])
    monkeypatch.setattr(encoding, "ITEMS_PER_CALL", size)
    encoder, seen = TableEncoder(table), []
    assert evaluate(encoder, [subset], progress=lambda done, total: seen.append((done, total))) == expected
    assert max(map(len, encoder.calls)) <= size
    assert seen == [(min(call * size, 100), 100) for call in range(len(encoder.calls) + 1)]


def test_each_distinct_item_is_encoded_once_over_all_subsets_in_a_fixed_order():
    subset, table = random_subset(np.random.default_rng(9), queries=5, targets=30)
    twin = dataclasses.replace(subset, info=SubsetInfo("twin"), targets=subset.targets[::-1])
    encoder = TableEncoder(table)
    results = evaluate(encoder, [subset, twin])
    assert encoder.calls == [[*subset.queries, *subset.targets]]
    assert [result.name for result in results.subsets] == ["letters", "twin"]


def test_items_are_told_apart_by_text_and_images():
    one, two = Path("one.png"), Path("two.png")
    picture, other_picture = Image.new("L", (2, 2)), Image.new("L", (2, 2))
    targets = (
        *(Side("t", images) for images in [(), (one,), (two,), (one, two), (two, one)]),
        *(Side("t", (image,)) for image in (picture, other_picture, picture)),
        Side("t", (Path("one.png"),)),
    )
    seen = []

    def encode(sides):
        seen.extend(sides)
        return unit_rows(np.random.default_rng(0), len(sides))

    pool = np.arange(len(targets), dtype=np.int32)
    evaluate(encode, [EvalSubset(SubsetInfo("s"), (Side("q"),), targets, (pool,))])
    assert seen == [Side("q"), *targets[:7]]


def test_a_copy_of_the_gold_candidate_in_its_pool_is_no_competitor():
    targets = (Side("yes"), Side("no"), Side("yes"))
    pool = np.asarray([0, 1, 2, 0, 1], np.int32)
    subset = EvalSubset(SubsetInfo("memes"), (Side("q"),), targets, (pool,))
    right, wrong = np.asarray([1.0, 0.0]), np.asarray([0.0, 1.0])
    results = evaluate(TableEncoder({"q": right, "yes": right, "no": wrong}), [subset])
    assert results.details[0].ranks == [1]
    assert (results.subsets[0].pool_size, results.subsets[0].scores.chance) == (2.0, 0.5)
    assert results.details[0].hardest_negative_similarity == [0.0]


def test_a_pool_of_the_gold_candidate_alone_has_no_hardest_negative():
    subset = EvalSubset(SubsetInfo("s"), (Side("q"),), (Side("t"),), (np.zeros(1, np.int32),))
    results = evaluate(lambda sides: np.ones((len(sides), 1)), [subset])
    assert results.details[0].hardest_negative_similarity == [None]
    assert results.subsets[0].scores.hit_at_1 == results.subsets[0].scores.chance == 1.0


def test_means_are_plain_means_of_subsets():
    rng = np.random.default_rng(10)
    places = [("classification", "in"), ("classification", "out"), ("classification", "in"), ("vqa", "out")]
    subsets, table = [], {}
    for row, (meta_task, distribution) in enumerate(places):
        queries = 20 * (row + 1)  # means that weighted queries would differ
        subset, rows = random_subset(rng, f"s{row}", queries=queries, meta_task=meta_task, distribution=distribution)
        subsets.append(subset)
        table |= rows
    results = evaluate(TableEncoder(table), subsets)
    for metric in ("hit@1", "hit@5", "hit@10", "mrr", "ndcg@5"):
        scores = [subset.scores.metrics[metric] for subset in results.subsets]
        means = {name: mean.scores.metrics[metric] for name, mean in results.means.items()}
        assert len({*scores}) > 1
        assert means == pytest.approx(
            {
                "all": np.mean(scores),
                "in": np.mean([scores[0], scores[2]]),
                "out": np.mean([scores[1], scores[3]]),
                "classification": np.mean(scores[:3]),
                "vqa": scores[3],
                "macro": (np.mean(scores[:3]) + scores[3]) / 2,
            }
        )
    assert [mean.subsets for mean in results.means.values()] == [4, 2, 2, 3, 1, 4]
    errors = np.asarray([subset.scores.standard_error for subset in results.subsets])
    assert results.means["all"].scores.standard_error == pytest.approx(np.sqrt((errors**2).sum()) / 4)


def test_means_stand_in_the_order_of_mmebs_tables_whatever_the_order_of_subsets():
    rng = np.random.default_rng(15)
    made = [
        random_subset(rng, meta_task, meta_task=meta_task)
        for meta_task in ("other", "grounding", "retrieval", "vqa", "classification")
    ]
    table = {text: row for _, rows in made for text, row in rows.items()}
    means = evaluate(TableEncoder(table), [subset for subset, _ in made]).means
    assert list(means) == ["all", "in", "classification", "vqa", "retrieval", "grounding", "other", "macro"]


def test_missing_subsets_of_a_suite_are_named():
    subset, table = random_subset(np.random.default_rng(11))
    partial = evaluate(TableEncoder(table), [subset], suite="mmeb", expected=["VOC2007", "letters", "GQA"])
    assert (partial.complete, partial.missing) == (False, ("GQA", "VOC2007"))
    whole = evaluate(TableEncoder(table), [subset], suite="mmeb", expected=["letters"])
    assert (whole.complete, whole.missing) == (True, ())


def test_a_few_of_mmebs_subsets_are_a_partial_mmeb_unasked():
    rng = np.random.default_rng(13)
    voc, table = random_subset(rng, "VOC2007", meta_task="classification")
    gqa, more = random_subset(rng, "GQA", meta_task="vqa", distribution="out")
    partial = evaluate(TableEncoder(table | more), [voc, gqa])
    assert partial.suite == "mmeb"
    assert len(partial.missing) == 34
    assert {"VOC2007", "GQA"}.isdisjoint(partial.missing)
    letters, rest = random_subset(rng)
    mixed = evaluate(TableEncoder(table | rest), [voc, letters])
    assert (mixed.suite, mixed.complete) == ("custom", True)


def test_all_of_mmebs_subsets_are_complete():
    rng = np.random.default_rng(14)
    made = [random_subset(rng, name, queries=2, targets=20) for name in SUBSETS]
    table = {text: row for _, rows in made for text, row in rows.items()}
    results = evaluate(TableEncoder(table), [subset for subset, _ in made])
    assert (results.suite, results.complete, len(results.subsets)) == ("mmeb", True, 36)


def test_examples_are_right_and_wrong_ones_at_even_distances():
    ranks = [1, 1, 2, 1, 5, 1, 1, 1, 1, 1]
    assert choose_examples(ranks, 2) == [3, 8, 2, 4]
    assert choose_examples([1, 1], 3) == [0, 1]
    assert choose_examples([2], 3) == [0]


def test_examples_spell_out_what_was_retrieved():
    subset, table = random_subset(np.random.default_rng(12))
    picture = Side("letters query 0", (Path("images/a.png"),))
    subset = dataclasses.replace(subset, queries=(picture, *subset.queries[1:]))
    (details,) = evaluate(TableEncoder(table), [subset]).details
    assert {details.ranks[example.query_index] == 1 for example in details.examples} == {True, False}
    for example in details.examples:
        row = example.query_index
        assert example.query["text"] == subset.queries[row].text
        assert example.query["images"] == ([str(Path("images/a.png").absolute())] if row == 0 else [])
        assert example.gold["text"] == subset.targets[subset.candidates[row][0]].text
        texts = [item["text"] for item in example.retrieved]
        assert texts == [subset.targets[index].text for index in details.top[row]]
        scores = [float(table[text] @ table[subset.queries[row].text]) for text in texts]
        assert [item["score"] for item in example.retrieved] == pytest.approx(scores, abs=1e-6)
        assert [item["is_gold"] for item in example.retrieved] == [text == example.gold["text"] for text in texts]


def _subset(queries=("q",), pools=([0],)):
    arrays = tuple(np.asarray(pool, np.int32) for pool in pools)
    return EvalSubset(SubsetInfo("s"), tuple(map(Side, queries)), (Side("t"),), arrays)


@pytest.mark.parametrize(
    ("subsets", "message"),
    [
        ([], "no subset"),
        ([_subset(), _subset()], "more than once: s"),
        ([_subset(queries=(), pools=())], "'s' has no queries"),
        ([_subset(pools=())], "1 queries but 0 candidate pools"),
        ([_subset(pools=[[]])], "query 0: no candidates"),
        ([_subset(pools=[[0, 1]])], "query 0: a candidate is not among"),
        ([_subset(pools=[[-1]])], "query 0: a candidate is not among"),
    ],
)
def test_unusable_subsets_are_refused(subsets, message):
    with pytest.raises(BadInputError, match=message):
        evaluate(lambda sides: np.ones((len(sides), 1)), subsets)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda sides: np.ones((len(sides) + 1, 1)), r"\(3, 1\) for 2 sides; expected \(2, D\)"),
        (lambda sides: np.ones(len(sides)), r"\(2,\) for 2 sides"),
        (lambda sides: np.full((len(sides), 1), 2.0), "norm 2"),
        (lambda sides: np.zeros((len(sides), 3)), "norm 0"),
    ],
)
def test_unusable_embeddings_are_refused(encode, message):
    with pytest.raises(ValueError, match=message):
        evaluate(encode, [_subset()])
