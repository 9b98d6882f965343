"""Files of rows: columns of every type and name, and bytes that are damaged."""

import collections
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ega_jax.data.mmeb import read_train
from ega_jax.data.records import BadRecordError, Side, TrainRecord
from ega_jax.errors import BadInputError

from .mmeb_rows import GOOD, TRAIN, write


@pytest.mark.parametrize("names", [("query", *TRAIN[1:]), TRAIN[:3]])
def test_a_missing_column_is_named(data, suffix, names):
    missing = "qry" if names[0] == "query" else "pos_image_path"
    file = write(data, "GQA", "original", [tuple("x" for _ in names)], suffix, names)
    with pytest.raises(BadInputError, match=rf"{file}.*'{missing}'.* is missing"):
        read_train(data, "GQA")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("qry", "qry_img_path", "pos_text", "pos_image_path"),
            "'qry_image_path'.*missing .did you mean 'qry_img_",
        ),
        ((*TRAIN[:4], "neg_txt"), "'neg_txt'.* is unknown .did you mean 'neg_text'"),
        ((*TRAIN[:4], "Neg_text"), "'Neg_text'.* is unknown .did you mean 'neg_text'"),
    ],
)
def test_a_misspelt_column_is_met_with_the_right_one(data, suffix, names, message):
    write(data, "GQA", "original", [tuple("" for _ in names)], suffix, names)
    with pytest.raises(BadInputError, match=message):
        read_train(data, "GQA")


def test_damaged_bytes_never_raise_anything_but_bad_input(data, suffix):
    rng = random.Random(0)
    file = write(data, "GQA", "original", [(f"q{n}", "", "p", "", ["a"], [""]) for n in range(20)], suffix)
    content = file.read_bytes()
    outcomes = collections.Counter()
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            subset = read_train(data, "GQA", on_bad_record="skip")
            outcomes["refused" if subset.skipped.skipped else "read"] += 1
        except BadInputError as error:
            assert file.name in str(error)  # noqa: PT017
            outcomes["refused"] += 1
    assert outcomes["read"] > 0
    assert outcomes["refused"] > 100


def test_a_column_name_that_is_not_text_is_refused(data):
    file = write(data, "GQA", "original", [GOOD])
    file.write_bytes(file.read_bytes().replace(b"pos_image_path", b"pos_image_\xf6ath"))
    with pytest.raises(BadInputError, match="cannot be read as parquet"):
        read_train(data, "GQA")


def test_other_columns_are_ignored(data, suffix):
    names = (*TRAIN[:4], "id", "source")
    write(data, "GQA", "original", [(*GOOD, 7, ["x"])], suffix, names)
    assert read_train(data, "GQA")[0].positive.text == "a  label "


@pytest.mark.parametrize(
    ("array", "type_name"),
    [
        (pa.array([1, 2]), "int64"),
        (pa.array([b"a", b"b"]), "binary"),
        (pa.array([["a"], ["b"]]), "list"),
    ],
)
def test_a_column_of_another_type_is_refused(data, array, type_name):
    (data / "GQA").mkdir()
    columns = {name: pa.array(["x", "y"]) for name in TRAIN[:4]} | {"qry": array}
    pq.write_table(pa.table(columns), data / "GQA" / "original.parquet")
    with pytest.raises(
        BadInputError, match=rf"original\.parquet: column 'qry' is of type {type_name}.*expected string"
    ):
        read_train(data, "GQA")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_every_kind_of_string_column_is_read(data, kind):
    (data / "GQA").mkdir()
    columns = {name: pa.array(["x", "y"]).cast(kind) for name in TRAIN[:4]} | {
        "qry_image_path": pa.nulls(2),
        "pos_image_path": pa.nulls(2),
    }
    pq.write_table(pa.table(columns), data / "GQA" / "original.parquet")
    assert read_train(data, "GQA")[1] == TrainRecord(Side("y"), Side("y"))


@pytest.mark.parametrize("keep", [0, 3, 200, -1, -20])
def test_a_truncated_parquet_file_is_refused(data, keep):
    file = write(data, "GQA", "original", [GOOD] * 50)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BadInputError, match=r"original-00000-of-00001\.parquet: cannot be read as parquet"):
        read_train(data, "GQA")


def test_a_parquet_file_with_damaged_pages_is_refused(data):
    file = write(data, "GQA", "original", [(f"question {n}", "", f"answer {n}", "") for n in range(500)])
    content = bytearray(file.read_bytes())
    content[4:600] = bytes(596)
    file.write_bytes(content)
    with pytest.raises(BadInputError, match="cannot be read as parquet"):
        read_train(data, "GQA")


def test_invalid_utf8_in_parquet_is_found_by_row_and_column(data):
    (data / "GQA").mkdir()
    file = data / "GQA" / "original.parquet"
    texts = pa.array([b"fine"] * 300 + [b"caf\xe9"] + [b"fine"] * 20, pa.binary())
    columns = {name: pa.array(["x"] * 321) for name in TRAIN[:4]}
    columns |= {"qry_image_path": pa.nulls(321), "pos_image_path": pa.nulls(321)}
    columns["pos_text"] = pa.StringArray.from_buffers(321, *texts.buffers()[1:])
    pq.write_table(pa.table(columns), file)
    with pytest.raises(BadRecordError, match=r"row 300, field 'pos_text': not valid UTF-8: .* at byte 3"):
        read_train(data, "GQA")
    subset = read_train(data, "GQA", on_bad_record="skip")
    assert len(subset) == 320
    assert subset.location(300) == (file, 301)


ROW = b'{"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": ""}'


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b'{"qry": ', "line", "not valid JSON"),
        (b"\xff\xfe{}", "line", "not valid UTF-8: .* at byte 0"),
        (ROW.replace(b'"q"', b'"caf\xe9"'), "line", "not valid UTF-8"),
        (ROW.replace(b'"q"', b'"\\ud83d"'), "qry", "not valid Unicode"),
        (b"[1, 2]", "line", "not a JSON object: a list"),
        (b"null", "line", "not a JSON object: null"),
        (b"[" * 100_000, "line", "not valid JSON"),
        (b"9" * 10_000, "line", "not valid JSON"),
        (b"", "line", "empty line"),
        (ROW.replace(b'"q"', b"7"), "qry", "expected string: it is a number"),
        (ROW.replace(b'"q"', b"true"), "qry", "expected string: it is true or false"),
        (ROW.replace(b'"q"', b'["q"]'), "qry", "expected string: it is a list"),
        (ROW.replace(b'"q"', b'{"text": "q"}'), "qry", "expected string: it is an object"),
        (ROW.replace(b"}", b', "neg_text": [1]}'), "neg_text", "expected strings in the list: one is a number"),
        (ROW.replace(b"}", b', "neg_text": ["\\udc00"]}'), "neg_text", "not valid Unicode"),
        (ROW.replace(b'"pos_text": "p", ', b""), "pos_text", "is missing"),
        (ROW.replace(b"}", b', "neg_texts": "x"}'), "neg_texts", "is unknown .did you mean 'neg_text'"),
    ],
)
def test_a_bad_line_is_found_by_its_number(data, line, field, reason):
    file = data / "GQA" / "train.jsonl"
    file.parent.mkdir()
    file.write_bytes(b"\n".join([ROW, line, ROW, b""]))
    with pytest.raises(BadRecordError, match=rf"^{file}, row 1, field '{field}': {reason}"):
        read_train(data, "GQA")
    subset = read_train(data, "GQA", on_bad_record="skip")
    assert [subset.location(index)[1] for index in range(len(subset))] == [0, 2]
    assert subset.skipped.skipped == 1


def test_byte_order_mark_carriage_returns_and_a_blank_end_are_taken(data):
    file = data / "GQA" / "train.jsonl"
    file.parent.mkdir()
    file.write_bytes(b"\xef\xbb\xbf" + ROW + b"\r\n" + ROW + b"\r\n\r\n\n")
    assert len(read_train(data, "GQA")) == 2
