"""Evaluation rows: candidates without repeats, the right one first, and bad rows left out whole."""

import numpy as np
import pytest

from ega_jax.data.mmeb import SUBSETS, read_eval
from ega_jax.data.records import BadRecordError, Side
from ega_jax.errors import BadInputError

from .mmeb_rows import GOOD, TOKEN, TRAIN, write


def test_targets_are_unique_and_the_gold_one_first(data, suffix):
    rows = [
        (f"{TOKEN}\nWhat?\n", "images/0.png", ["cat", "dog", "a  b"], ["", "", ""]),
        ("Find\n", "", ["dog", f"{TOKEN}\nR\n", f"{TOKEN}\nR\n"], ["", "images/1.png", "images/2.png"]),
        ("Find\n", "", [f"{TOKEN}\nR\n", "cat"], ["images/2.png", ""]),
    ]
    write(data, "GQA", "test", rows, suffix)
    subset = read_eval(data, "GQA", "test")
    assert subset.info == SUBSETS["GQA"]
    assert subset.queries == (Side(f"{TOKEN}\nWhat?\n", (data / "images/0.png",)), Side("Find\n"), Side("Find\n"))
    for index, (_, _, texts, paths) in enumerate(rows):
        assert subset.candidates[index].dtype == np.int32
        assert [subset.targets[place] for place in subset.candidates[index]] == [
            Side(text, (data / path,) if path else ()) for text, path in zip(texts, paths, strict=True)
        ]
    assert len(subset.targets) == len(set(subset.targets)) == 5
    assert str(subset.skipped) == ""
    assert not subset.skipped


def test_a_candidate_listed_twice_counts_once(data, suffix):
    write(data, "GQA", "validation", [("q", "", ["gold", "a", "gold", "b", "a"], [""] * 5)], suffix)
    subset = read_eval(data, "GQA", "validation")
    assert [subset.targets[place].text for place in subset.candidates[0]] == ["gold", "a", "b"]
    assert dict(subset.skipped.mended) == {"candidates that are in their list twice, dropped": 2}


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (("q", "", [], []), "tgt_text", "no candidates"),
        (("q", "", None, None), "tgt_text", "no candidates"),
        (("q", "", ["a", "b"], [""]), "tgt_img_path", "not as long as tgt_text: 1 paths for 2 texts"),
        (("q", "", ["a", ""], ["", ""]), "tgt_text", "neither text nor image: number 1 of the list"),
        (("q", "", ["a", None], [None, None]), "tgt_text", "neither text nor image: number 1 of the list"),
        (("", "", ["a"], [""]), "qry_text", "neither text nor image$"),
        (("q", "images/9.png", ["a"], [""]), "qry_img_path", "no such image file"),
        (("q", "", ["a", "b"], ["", "../b.png"]), "tgt_img_path", r"path with '\.\.'.*, number 1 of the list"),
        (("q", "", [TOKEN * 2], ["images/0.png"]), "tgt_text", "one image needs one"),
    ],
)
def test_a_bad_row_is_named_or_skipped_whole(data, suffix, row, field, reason):
    good = ("good", "", ["x", "y"], ["", ""])
    file = write(data, "GQA", "test", [good, row, good], suffix)
    with pytest.raises(BadRecordError, match=rf"^{file}, row 1, field '{field}': {reason}"):
        read_eval(data, "GQA", "test")
    subset = read_eval(data, "GQA", "test", on_bad_record="skip")
    assert [query.text for query in subset.queries] == ["good", "good"]
    assert [target.text for target in subset.targets] == ["x", "y"]  # nothing of the row that was left out
    assert (subset.skipped.rows, subset.skipped.skipped) == (3, 1)


def test_many_wrong_candidates_are_one_kind(data):
    rows = [("q", "", ["a"] * place + [""], [""] * (place + 1)) for place in range(1, 5)]
    write(data, "GQA", "test", [*rows, ("q", "", ["a"], [""])])
    skipped = read_eval(data, "GQA", on_bad_record="skip").skipped
    assert skipped.reasons == {"tgt_text: neither text nor image": 4}


def test_a_string_where_a_list_belongs_is_refused(data, suffix):
    write(data, "GQA", "test", [("q", "", "a", "")], suffix)
    with pytest.raises(BadInputError, match=r"'tgt_text'.* expected list"):
        read_eval(data, "GQA")


def test_training_rows_are_not_taken_for_evaluation_rows(data, suffix):
    write(data, "GQA", "test", [GOOD], suffix, TRAIN)
    with pytest.raises(BadInputError, match=r"'qry_text'.* is missing"):
        read_eval(data, "GQA")
