"""The whole of MMEB in its true layout, small, where the right score is known: oracles in place of a model."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ega_jax.cli import BAD_INPUT, run
from ega_jax.data.mmeb import read_eval
from ega_jax.data.subsets import SUBSETS
from ega_jax.evaluation import NonFiniteEmbeddingError, Results, evaluate, suite
from ega_jax.evaluation.cached_encoder import CachedEncoder
from ega_jax.evaluation.resampling import with_intervals
from ega_jax.evaluation.suite import shortfalls
from ega_jax.evaluation.suite_files import write_suite_files
from ega_jax.evaluation.vector_cache import VectorCache

from ..synthetic_mmeb_eval import sizes, write_mmeb_eval

QUERIES, WIDTH = 8, 12


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_mmeb_eval(tmp_path_factory.mktemp("mmeb") / "MMEB-eval", QUERIES)


@pytest.fixture(scope="module")
def subsets(directory):
    return [read_eval(directory, name) for name in SUBSETS]


@pytest.fixture
def published(monkeypatch):
    """Makes the small suite's sizes those that were published."""
    queries, candidates = sizes(QUERIES)
    monkeypatch.setattr(suite, "QUERIES", queries)
    monkeypatch.setattr(suite, "CANDIDATES", candidates)


def vector(text, picture=""):
    """A random unit vector of an item's own, by text and name of the picture."""
    seed = int.from_bytes(hashlib.sha256(f"{text}|{picture}".encode()).digest()[:8], "big")
    row = np.random.default_rng(seed).normal(size=WIDTH)
    return (row / np.linalg.norm(row)).astype(np.float32)


def vector_of(side):
    return vector(side.text, str(side.images[0]).replace("#", "/").rpartition("/")[2] if side.images else "")


def random_encoder(sides):
    return np.stack([vector_of(side) for side in sides])


def golds(subsets):
    """The right target of every query, which no two share in this suite but by a common label."""
    return {
        query: subset.targets[pool[0]]
        for subset in subsets
        for query, pool in zip(subset.queries, subset.candidates, strict=True)
    }


def perfect_encoder(subsets):
    right = golds(subsets)
    return lambda sides: random_encoder([right.get(side, side) for side in sides])


def reference(directory, embed=vector):
    """hit@1 of every dataset, in a few lines, from the files as they lie."""
    scores = {}
    for name in SUBSETS:
        hits = []
        for row in pq.read_table(directory / name / "test-00000-of-00001.parquet").to_pylist():
            query = embed(row["qry_text"], Path(row["qry_img_path"]).name)
            pairs = zip(row["tgt_text"], row["tgt_img_path"], strict=True)
            similarities = np.stack([embed(text, Path(path).name) for text, path in pairs]) @ query
            hits.append(similarities[0] > similarities[1:].max())
        scores[name] = np.mean(hits)
    return scores


def hit_rates(results):
    return {subset.name: subset.scores.hit_at_1 for subset in results.subsets}


# ------------------------------------------------------------------------------------------------------------- oracles


def test_a_perfect_encoder_scores_all(subsets):
    results = with_intervals(evaluate(perfect_encoder(subsets), subsets))
    assert results.complete
    assert (len(results.subsets), results.suite) == (36, "mmeb")
    for scored in (*results.subsets, *results.means.values()):
        assert set(scored.scores.metrics.values()) == {1.0}
        assert set(scored.scores.intervals.values()) == {(1.0, 1.0)}


def test_a_random_encoder_scores_what_a_reference_in_numpy_says(subsets, directory):
    results, expected = evaluate(random_encoder, subsets), reference(directory)
    assert hit_rates(results) == pytest.approx(expected)
    assert 0 < results.means["all"].scores.hit_at_1 < 0.5
    by = {"in": [], "out": [], "classification": [], "vqa": [], "retrieval": [], "grounding": []}
    for name, info in SUBSETS.items():
        by[info.distribution].append(expected[name])
        by[info.meta_task].append(expected[name])
    means = {mean: np.mean(values) for mean, values in by.items()} | {"all": np.mean(list(expected.values()))}
    means["macro"] = np.mean([means[name] for name in ("classification", "vqa", "retrieval", "grounding")])
    assert {name: mean.scores.hit_at_1 for name, mean in results.means.items()} == pytest.approx(means)
    assert {name: mean.subsets for name, mean in results.means.items()} == {
        **{"all": 36, "in": 20, "out": 16, "macro": 36},
        **{"classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4},
    }


def test_a_constant_encoder_scores_nothing(subsets):
    results = evaluate(lambda sides: np.tile(vector("constant"), (len(sides), 1)), subsets)
    assert set(hit_rates(results).values()) == {0.0}
    for subset in results.subsets:  # the gold one is the last of its pool
        assert subset.scores.metrics["mrr"] == pytest.approx(1 / subset.pool_size)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_number_that_is_not_finite_is_an_error_that_names_its_item(subsets, bad):
    broken = subsets[20].targets[5]

    def encode(sides):
        rows = random_encoder(sides)
        rows[[side == broken for side in sides], 3] = bad
        return rows

    with pytest.raises(NonFiniteEmbeddingError, match=rf"'{subsets[20].info.name}', target 5.*{broken.images[0].name}"):
        evaluate(encode, subsets)


def test_a_tie_with_one_other_costs_one_rank_everywhere(subsets):
    """The second candidate of each query, too, gets the gold one's vector; labels, which all share, are left out."""
    chosen = [subset for subset in subsets if subset.info.meta_task != "classification"]
    twins = {subset.targets[pool[1]]: subset.targets[pool[0]] for subset in chosen for pool in subset.candidates}
    perfect = perfect_encoder(chosen)
    results = evaluate(lambda sides: perfect([twins.get(side, side) for side in sides]), chosen)
    for subset in results.subsets:
        assert subset.scores.metrics == pytest.approx(
            {"hit@1": 0.0, "hit@5": 1.0, "hit@10": 1.0, "mrr": 0.5, "ndcg@5": 1 / np.log2(3)}
        )


def test_permuted_vectors_score_by_their_items_and_not_by_their_places(subsets):
    """Each query gets the vector of the right answer to the one before: with labels, a wrong answer of its own pool."""
    right = golds(subsets)
    taken = {}
    for subset in subsets:
        taken |= {query: right[subset.queries[row - 1]] for row, query in enumerate(subset.queries)}
    found = hit_rates(evaluate(lambda sides: random_encoder([taken.get(side, side) for side in sides]), subsets))
    for subset in subsets:
        expected = 0.0
        if subset.info.meta_task != "classification":  # pools of their own: the answer is strange to all candidates
            hits = []
            for query, pool in zip(subset.queries, subset.candidates, strict=True):
                similarities = random_encoder([subset.targets[place] for place in pool]) @ vector_of(taken[query])
                hits.append(similarities[0] > similarities[1:].max())
            expected = np.mean(hits)
        assert found[subset.info.name] == expected, subset.info.name


def test_truncated_vectors(subsets, directory):
    def cut(text, picture=""):
        row = vector(text, picture)[:4]
        return row / np.linalg.norm(row)

    def encode(sides):
        rows = random_encoder(sides)[:, :4]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    assert hit_rates(evaluate(encode, subsets)) == pytest.approx(reference(directory, cut))
    with pytest.raises(ValueError, match="norm"):
        evaluate(lambda sides: random_encoder(sides)[:, :4], subsets)
    with pytest.raises(ValueError, match="shape"):
        evaluate(lambda sides: random_encoder(sides)[:-1], subsets)


def test_order_of_candidates_size_of_calls_and_the_cache_change_nothing(subsets, directory, tmp_path):
    expected = evaluate(random_encoder, subsets)
    shuffled = tmp_path / "shuffled"
    shutil.copytree(directory, shuffled)
    random = np.random.default_rng(0)
    for path in shuffled.glob("*/test-*.parquet"):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            order = [0, *(1 + random.permutation(len(row["tgt_text"]) - 1))]
            row |= {column: [row[column][place] for place in order] for column in ("tgt_text", "tgt_img_path")}
        pq.write_table(pa.Table.from_pylist(rows), path)
    moved = evaluate(random_encoder, [read_eval(shuffled, name) for name in SUBSETS])
    assert (moved.subsets, moved.means) == (expected.subsets, expected.means)
    for size in (1, 7, 10_000):
        cache = VectorCache(tmp_path / "cache", {"size": str(size)}, WIDTH)
        encode = CachedEncoder(random_encoder, WIDTH, cache, items_per_shard=size if size > 1 else 50)
        assert evaluate(encode, subsets) == expected
        assert evaluate(CachedEncoder(None, WIDTH, cache), subsets) == expected  # nothing is left to embed


def test_version_2_of_the_layout_has_the_same_questions(subsets, tmp_path):
    write_mmeb_eval(tmp_path, QUERIES, v2=True)
    again = [read_eval(tmp_path, name) for name in SUBSETS]
    for old, new in zip(subsets, again, strict=True):
        for place in ("queries", "targets"):
            pictures = [
                [
                    [image.name for image in side.images] if isinstance(side.images[0], Path) else 1
                    for side in getattr(subset, place)
                    if side.images
                ]
                for subset in (old, new)
            ]
            assert pictures[0] == pictures[1]
        np.testing.assert_array_equal(old.candidates, new.candidates)
    by_name = {subset.info.name: subset for subset in again}
    assert by_name["OK-VQA"].queries[1].text == "<|image_1|>  Look at it: OK-VQA question 1\n"
    assert by_name["OK-VQA"].targets[1].text == "OK-VQA answer 1"
    assert by_name["VisDial"].queries[0].text.endswith("VisDial question 0\n\n")
    assert hit_rates(evaluate(perfect_encoder(again), again)) == dict.fromkeys(SUBSETS, 1.0)


# ------------------------------------------------------------------------------------------------ whole, or so labelled


def test_published_sizes_are_asked_for(subsets, published, monkeypatch):
    assert shortfalls(subsets) == {}
    monkeypatch.setattr(suite, "QUERIES", 9)
    assert shortfalls(subsets[:1]) == {"ImageNet-1K": "8 of 9 queries"}
    monkeypatch.setattr(suite, "QUERIES", 8)
    monkeypatch.setitem(suite.CANDIDATES, "GQA", 7)
    assert shortfalls(subsets) == {"GQA": "6 of 7 candidates a query"}


@pytest.fixture
def damaged(directory, tmp_path):
    """Without one dataset, and with half of another."""
    copy = tmp_path / "damaged"
    shutil.copytree(directory, copy)
    shutil.rmtree(copy / "NIGHTS")
    path = copy / "DocVQA" / "test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path)[: QUERIES // 2], path)
    return copy


@pytest.mark.usefixtures("published")
def test_what_is_missing_or_short_stops_the_evaluation_and_is_named(directory, damaged, tmp_path, capsys):
    arguments = ["eval", str(tmp_path / "model"), "--suite", "mmeb", "--output", str(tmp_path / "out"), "--data"]
    assert run([*arguments, str(damaged)]) == BAD_INPUT
    assert "NIGHTS is missing" in capsys.readouterr().err
    shutil.copytree(directory / "NIGHTS", damaged / "NIGHTS")
    assert run([*arguments, str(damaged)]) == BAD_INPUT
    told = capsys.readouterr().err
    assert "DocVQA has 4 of 8 queries" in told
    assert "--partial" in told
    assert run([*arguments, str(directory), "--subsets", "GQA"]) == BAD_INPUT
    assert "OK-VQA is missing" in capsys.readouterr().err
    assert run(["eval", str(tmp_path), "--partial", "--data", "x", "--output", "y"]) == BAD_INPUT
    assert not (tmp_path / "out").exists()


def test_a_partial_result_is_labelled_wherever_it_stands(damaged, tmp_path, published):
    subsets = [read_eval(damaged, name) for name in SUBSETS if name != "NIGHTS"]
    results = evaluate(random_encoder, subsets, short=shortfalls(subsets))
    written = write_suite_files(results, tmp_path, "mine")
    document = json.loads(results.save(tmp_path).read_text())
    assert (document["complete"], document["missing"]) == (False, ["NIGHTS"])
    assert document["short"] == {"DocVQA": "4 of 8 queries"}
    assert Results.load(tmp_path / "results.json") == results
    assert not any((tmp_path / "mmeb_scores").glob("NIGHTS*"))
    for path in (*written[:2], tmp_path / "mmeb_scores" / "GQA_score.json"):
        text = path.read_text().lower()
        assert "partial" in text
        assert "nights" in text
        assert "docvqa" in text


def test_files_beside_the_results(subsets, tmp_path, published):
    (tmp_path / "mmeb_scores").mkdir()
    (tmp_path / "mmeb_scores" / "stale_score.json").touch()
    results = with_intervals(evaluate(random_encoder, subsets))
    markdown, latex, scores = write_suite_files(results, tmp_path, "my_run & more")
    assert len(list(scores.iterdir())) == 36
    for subset in results.subsets:
        content = json.loads((scores / f"{subset.name}_score.json").read_text())
        assert content == {"acc": content["num_correct"] / 8, "num_correct": 8 * subset.scores.hit_at_1, "num_pred": 8}
    overall = f"{100 * results.means['all'].scores.hit_at_1:.1f}"
    for path, name in ((markdown, "**my_run & more**"), (latex, r"my\_run \& more")):
        text = path.read_text()
        (mine,) = [line for line in text.splitlines() if name in line and "EGA" not in line and line[0] != "#"]
        assert overall in mine
        assert "artial" not in text
        (anchor,) = [line for line in text.splitlines() if "EGA, LLaVA-OneVision-7B" in line]
        assert "70.7" in anchor
        assert "ranks it last" in text
        assert "mean of the four meta-task means" in text
    assert "95 % interval" in markdown.read_text()
    rows = [line for line in markdown.read_text().splitlines() if line.startswith("| ")]
    assert {line.count(" | ") for line in rows} == {8, 11}
