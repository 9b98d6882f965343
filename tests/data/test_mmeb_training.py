"""Training rows come back to the character, with what can only mean one thing mended."""

import pickle

import numpy as np
import pytest

from ega_jax.data.mmeb import SUBSETS, find_subsets, read_train
from ega_jax.data.records import BadRecordError, Side, TrainRecord

from .mmeb_rows import GOOD, TOKEN, write


def test_rows_come_back_to_the_character(data, suffix):
    rows = [
        GOOD,
        ("text  only\n", "", f"{TOKEN} Find\n", "images/1.png"),
        ("émigré 的 \U0001f600 \t", "", "<image> <|im_end|>", "", "no", ""),
        (TOKEN, "images/2.png", "x", "", "", "images/3.png"),
    ]
    subset = read_train(data, write(data, "GQA", "original", rows, suffix).parent.name)
    assert len(subset) == 4
    assert [subset[index] for index in range(4)] == [
        TrainRecord(Side(f"{TOKEN}\nRepresent  it\n", (data / "images/0.png",)), Side("a  label ")),
        TrainRecord(Side("text  only\n"), Side(f"{TOKEN} Find\n", (data / "images/1.png",))),
        TrainRecord(Side("émigré 的 \U0001f600 \t"), Side("<image> <|im_end|>"), (Side("no"),)),
        TrainRecord(Side(TOKEN, (data / "images/2.png",)), Side("x"), (Side(TOKEN, (data / "images/3.png",)),)),
    ]
    assert subset.info == SUBSETS["GQA"]
    assert dict(subset.skipped.mended) == {"images without an image token, which got one": 1}


def test_random_access_locations_and_pickling_over_shards(data, suffix):
    first = write(data, "GQA", "original", [(f"q{n}", "", f"p{n}", "") for n in range(300)], suffix)
    first = first.rename(first.with_name(f"original-00000-of-00002.{suffix}"))
    second = write(data, "GQA", "original", [(f"q{n}", "", f"p{n}", "") for n in range(300, 307)], suffix)
    second = second.rename(second.with_name(f"original-00001-of-00002.{suffix}"))
    subset = read_train(data, "GQA")
    for copy in (subset, pickle.loads(pickle.dumps(subset))):
        assert len(copy) == 307
        assert copy[0].query.text == "q0"
        assert copy[np.int64(302)].positive.text == "p302"
        assert copy[-1] == copy[306]
        assert copy.location(299) == (first, 299)
        assert copy.location(302) == (second, 2)
        assert copy.column("qry").to_pylist() == [f"q{n}" for n in range(307)]
        for index in (307, -308):
            with pytest.raises(IndexError, match="of 307 of GQA"):
                copy[index]


def test_an_image_token_without_an_image_is_removed_as_in_webqa(data, suffix):
    write(data, "WebQA", "original", [(f"{TOKEN}\nFind  it\n", "", f"{TOKEN} t\n", "")], suffix)
    subset = read_train(data, "WebQA")
    assert subset[0] == TrainRecord(Side("Find  it\n"), Side("t\n"))
    assert dict(subset.skipped.mended) == {"image tokens without an image, removed": 2}
    assert str(subset.skipped) == "mended, 2 times: image tokens without an image, removed"


def test_an_image_without_a_token_gets_one_in_front(data, suffix):
    write(data, "GQA", "original", [(" What?\n", "images/0.png", "", "images/1.png")], suffix)
    record = read_train(data, "GQA")[0]
    assert record.query.text == f"{TOKEN}\n What?\n"
    assert record.positive.text == TOKEN


@pytest.mark.parametrize(
    ("text", "path", "negatives"),
    [
        ("", "", []),
        (None, None, []),
        ([], [], []),
        (["", ""], ["", ""], []),
        (["", None], None, []),
        ("[]", "[]", []),
        (" \n", "", []),
        ("a", "", ["a"]),
        (["a", "b"], ["", ""], ["a", "b"]),
        (["a", "b"], "", ["a", "b"]),
        (["a", "", "b"], [], ["a", "b"]),
        ("['a', \"it's\"]", "['', '']", ["a", "it's"]),
        ('["a", null, "b\\n"]', "", ["a", "b\n"]),
        ("  ['a', None]\n", "", ["a"]),
        ("[a caption] in brackets", "", ["[a caption] in brackets"]),
        ("[1, 2]", "", ["[1, 2]"]),
        ("['\\d']", "", ["\\d"]),
        ("[" * 5000, "", ["[" * 5000]),
        ("__import__('os').system('false')", "", ["__import__('os').system('false')"]),
        ("", "images/3.png", [3]),
        (f"{TOKEN}\nx", "images/3.png", [f"{TOKEN}\nx:3"]),
        ("['', '']", "['images/2.png', 'images/3.png']", [2, 3]),
        ("", ["images/2.png", "", "images/3.png"], [2, 3]),
        (["a", ""], ["", "images/3.png"], ["a", 3]),
        (f"{TOKEN}\nRepresent the image.", "", []),
        ("the positive", "", []),
        (["the positive", "a"], "", ["a"]),
    ],
)
def test_negatives_in_any_spelling(data, suffix, text, path, negatives):
    write(data, "GQA", "original", [("q", "", "the positive", "", text, path)], suffix)

    def side(expected):
        if isinstance(expected, int):
            return Side(TOKEN, (data / f"images/{expected}.png",))
        words, _, image = expected.rpartition(":")
        return Side(words, (data / f"images/{image}.png",)) if words.startswith(TOKEN) else Side(expected)

    assert read_train(data, "GQA")[0].negatives == tuple(map(side, negatives))


def test_dropped_negatives_are_counted(data):
    rows = [("q", "", "p", "", ["p", TOKEN, "n"], ["", "", ""])]
    write(data, "GQA", "original", rows)
    assert dict(read_train(data, "GQA").skipped.mended) == {
        "negatives that lack their image, dropped": 1,
        "negatives equal to the positive, dropped": 1,
    }


@pytest.mark.parametrize(
    ("text", "path", "positives"),
    [
        (["a", "b"], "", [Side("a"), Side("b")]),
        (["a", "b", "a"], ["", "", ""], [Side("a"), Side("b")]),
        ("['a', 'b']", "", [Side("['a', 'b']")]),
        (["a"], None, [Side("a")]),
        ("", ["images/0.png", "images/1.png"], [0, 1]),
        ([f"{TOKEN}\nx", "y"], ["images/2.png", ""], [2, Side("y")]),
    ],
)
def test_several_positives(data, text, path, positives):
    row = {"qry": "q", "qry_image_path": "", "pos_text": text, "pos_image_path": path, "neg_text": ["b", "n"]}
    write(data, "GQA", "original", [row], "jsonl")
    record = read_train(data, "GQA")[0]
    words = f"{TOKEN}\nx" if isinstance(text, list) else TOKEN
    expected = [Side(words, (data / f"images/{side}.png",)) if isinstance(side, int) else side for side in positives]
    assert list(record.positives) == expected
    assert record.positive == expected[0]
    assert [side.text for side in record.negatives] == (["n"] if Side("b") in expected else ["b", "n"])


@pytest.mark.parametrize(
    ("text", "path", "field", "reason"),
    [
        ([], [], "pos_text", "neither text nor image"),
        (["a", ""], "", "pos_text", "neither text nor image: number 1 of the list"),
        (["a", "b"], ["images/0.png"], "pos_image_path", "not as long as pos_text: 1 paths for 2 texts"),
        ("", ["images/0.png", "images/9.png"], "pos_image_path", "no such image file: .*, number 1 of the list"),
    ],
)
def test_one_bad_positive_spoils_its_row(data, text, path, field, reason):
    row = {"qry": "q", "qry_image_path": "", "pos_text": text, "pos_image_path": path}
    file = write(data, "GQA", "original", [row], "jsonl")
    with pytest.raises(BadRecordError, match=rf"^{file}, row 0, field '{field}': {reason}"):
        read_train(data, "GQA")


def test_the_split_with_many_wordings_is_read_on_request(data, suffix):
    write(data, "GQA", "original", [GOOD], suffix)
    write(data, "GQA", "diverse_instruction", [("Other words\n", *GOOD[1:])] * 2, suffix)
    assert len(read_train(data, "GQA")) == 1
    diverse = read_train(data, "GQA", "diverse_instruction")
    assert [record.query.text for record in diverse] == [f"{TOKEN}\nOther words\n"] * 2
    assert [info.name for info in find_subsets(data, "diverse_instruction")] == ["GQA"]
