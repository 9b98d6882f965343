"""Scores, ranks and metrics against direct float64 arithmetic."""

import numpy as np
import pytest

from ega_jax.evaluation import retrieval

from .synthetic_subsets import unit_rows


def test_pool_scores_equal_direct_products_across_block_edges(monkeypatch):
    monkeypatch.setattr(retrieval, "QUERY_BLOCK", 7)
    monkeypatch.setattr(retrieval, "TARGET_BLOCK", 13)
    rng = np.random.default_rng(0)
    queries, targets = unit_rows(rng, 30), unit_rows(rng, 50)
    pools = [rng.integers(0, 50, size=rng.integers(1, 40)) for _ in range(30)]
    scores = list(retrieval.pool_scores(queries, targets, pools))
    assert len(scores) == 30
    for query, pool, row in zip(queries, pools, scores, strict=True):
        expected = targets[pool].astype(np.float64) @ query.astype(np.float64)
        assert row.dtype == np.float32
        np.testing.assert_array_equal(row, expected.astype(np.float32))


@pytest.mark.parametrize("dimensions", [1, 3, 64, 333])
def test_equal_candidates_score_exactly_alike_wherever_they_stand(dimensions):
    rng = np.random.default_rng(1)
    queries, target = unit_rows(rng, 37, dimensions), unit_rows(rng, 1, dimensions)
    targets = np.repeat(target, 101, axis=0)
    for row in retrieval.pool_scores(queries, targets, [np.arange(101)] * 37):
        assert len(np.unique(row)) == 1


@pytest.mark.parametrize(
    ("scores", "rank"),
    [
        ([0.9, 0.1, 0.2], 1),
        ([0.2, 0.1, 0.9], 2),
        ([0.5, 0.5, 0.1], 2),  # a tie counts against the gold candidate
        ([0.5, 0.5, 0.5, 0.7], 4),
        ([0.5], 1),
        ([np.nan, 0.1, 0.2], 3),
        ([0.5, np.nan, 0.2], 2),
        ([-0.0, 0.0], 2),
    ],
)
def test_gold_rank(scores, rank):
    assert retrieval.gold_rank(np.asarray(scores, np.float32)) == rank


def test_top_positions_puts_a_tied_gold_candidate_last():
    scores = np.asarray([0.5, 0.5, 0.9, 0.5, 0.1], np.float32)
    ids = np.asarray([3, 30, 7, 10, 1])
    assert retrieval.top_positions(scores, ids, 4).tolist() == [2, 3, 1, 0]
    assert retrieval.top_positions(scores, ids, 9).tolist() == [2, 3, 1, 0, 4]


def test_metrics_of_known_ranks():
    ranks = np.asarray([1, 2, 5, 6, 11], np.int32)
    assert np.mean(retrieval.rank_values("hit@1", ranks)) == 1 / 5
    assert np.mean(retrieval.rank_values("hit@5", ranks)) == 3 / 5
    assert np.mean(retrieval.rank_values("hit@10", ranks)) == 4 / 5
    np.testing.assert_allclose(np.mean(retrieval.rank_values("mrr", ranks)), (1 + 1 / 2 + 1 / 5 + 1 / 6 + 1 / 11) / 5)
    np.testing.assert_allclose(
        np.mean(retrieval.rank_values("ndcg@5", ranks)), (1 + 1 / np.log2(3) + 1 / np.log2(6)) / 5
    )
    np.testing.assert_allclose(retrieval.binomial_standard_error(0.2, 5), (0.2 * 0.8 / 5) ** 0.5)


def test_ndcg_equals_the_textbook_sum_over_a_ranked_list():
    for rank in range(1, 9):
        relevance = np.zeros(8)
        relevance[rank - 1] = 1.0
        gains = (2**relevance - 1) / np.log2(np.arange(8) + 2)
        expected = gains[:5].sum() / (1 / np.log2(2))
        np.testing.assert_allclose(retrieval.rank_values("ndcg@5", np.asarray([rank]))[0], expected)
