"""Bad training rows and images are named by file, row and column, or left out and counted."""

import pytest

from ega_jax.data.mmeb import read_train
from ega_jax.data.records import BadRecordError
from ega_jax.errors import BadInputError

from .mmeb_rows import GOOD, TOKEN, write

BAD = (
    (("", "", "p", ""), "qry", "neither text nor image"),
    ((None, None, "p", ""), "qry", "neither text nor image"),
    ((f"{TOKEN}\n", "", "p", ""), "qry", "neither text nor image"),
    (("q", "", " \n", ""), "pos_text", "neither text nor image"),
    ((f"{TOKEN} and {TOKEN}", "images/0.png", "p", ""), "qry", "one image needs one"),
    (("<|image_2|> x", "images/0.png", "p", ""), "qry", "one image needs one"),
    ((f"{TOKEN}<|image_2|>", "images/0.png", "p", ""), "qry", "one image needs one"),
    (("q", "images/9.png", "p", ""), "qry_image_path", "no such image file: 'images/9.png'"),
    (("q", "/etc/passwd", "p", ""), "qry_image_path", "absolute path: '/etc/passwd'"),
    (("q", "", "p", "../x.png"), "pos_image_path", r"path with '\.\.': '\.\./x\.png'"),
    (("q", "", "p", "https://x.org/a.png"), "pos_image_path", "URLs are not read"),
    (("q", "", "p", "images"), "pos_image_path", "not a regular file"),
    (("q", "", "p", "images/\0"), "pos_image_path", "path with a NUL byte"),
    (("q", "", "p", "GQA/notes.txt"), "pos_image_path", "not an image: begins with b'hello"),
    (("q", "", "p", "", "", ["images/0.png", "images/9.png"]), "neg_image_path", "no such image.*number 1 of"),
    (("q", "", "p", "", ["a", "b"], ["images/0.png"]), "neg_image_path", "not as long as neg_text: 1 paths for 2"),
    (("q", "", "p", "", "['a', 'b", ""), "neg_text", r"begins like a list but is none: \"\['a', 'b\""),
    (("q", "", "p", "", '["\\ud800"]', ""), "neg_text", "not valid Unicode"),
)


@pytest.mark.parametrize(("row", "field", "reason"), BAD)
def test_a_bad_row_is_named_or_skipped_and_counted(data, suffix, row, field, reason):
    row = (*row, "", "")[:6]
    good = ("q", "", "p", "", [], []) if any(isinstance(cell, list) for cell in row) else ("q", "", "p", "", "", "")
    if suffix == "parquet":  # a column has one type there
        row = (*row[:4], *(([cell] if cell else []) if isinstance(good[4], list) and isinstance(cell, str) else cell
                           for cell in row[4:]))  # fmt: skip
    file = write(data, "GQA", "original", [good, row, good], suffix)
    (data / "GQA" / "notes.txt").write_text("hello")
    with pytest.raises(BadRecordError, match=rf"^{file}, row 1, field '{field}': {reason}") as caught:
        read_train(data, "GQA")
    assert (caught.value.file, caught.value.row, caught.value.field) == (file, 1, field)
    subset = read_train(data, "GQA", on_bad_record="skip")
    assert [subset.location(index) for index in range(len(subset))] == [(file, 0), (file, 2)]
    skipped = subset.skipped
    assert skipped
    assert (skipped.rows, skipped.skipped) == (3, 1)
    ((kind, count),) = skipped.reasons.items()
    assert count == 1
    assert kind.startswith(f"{field}: ")
    assert str(skipped.first[0]) == str(caught.value)
    assert "left out 1 of 3 rows:" in str(skipped)


def test_the_report_counts_by_kind_and_keeps_the_first_few(data):
    rows = [("q", f"images/{n}.png", "p", "") for n in range(4, 30)] + [("", "", "p", "")] * 3 + [GOOD]
    write(data, "GQA", "original", rows)
    skipped = read_train(data, "GQA", on_bad_record="skip").skipped
    assert skipped.reasons == {"qry_image_path: no such image file": 26, "qry: neither text nor image": 3}
    assert [error.row for error in skipped.first] == [0, 1, 2, 3, 4]
    assert str(skipped).splitlines()[1:4] == [
        "left out 29 of 30 rows:",
        "  26 x qry_image_path: no such image file",
        "  3 x qry: neither text nor image",
    ]


@pytest.mark.parametrize("rows", [[("", "", "p", "")] * 2, []])
def test_no_good_row_is_an_error_even_when_skipping(data, rows):
    write(data, "GQA", "original", rows, "jsonl")
    with pytest.raises(BadInputError, match=r"'GQA'.*(all 2 rows are bad, the first: .*row 0|no rows)"):
        read_train(data, "GQA", on_bad_record="skip")


def test_images_are_held_to_what_was_asked(data, suffix):
    (data / "images" / "text.png").write_text("hello")
    for path, fails_at in [("cut", "decode"), ("text", "header"), ("none", "path"), ("0", None)]:
        write(data, "GQA", "original", [("q", f"images/{path}.png", "p", "")], suffix)
        levels = ["path", "header", "decode"]
        for level in levels:
            if fails_at is None or levels.index(level) < levels.index(fails_at):
                assert len(read_train(data, "GQA", verify_images=level)) == 1
            else:
                with pytest.raises(BadRecordError, match="row 0, field 'qry_image_path'"):
                    read_train(data, "GQA", verify_images=level)


def test_each_distinct_image_is_looked_at_once(data, monkeypatch):
    from ega_jax.data import mmeb

    seen = []
    monkeypatch.setattr(mmeb, "open_image", lambda path: seen.append(path.name))
    write(data, "GQA", "original", [("q", f"images/{n % 2}.png", "p", "images/2.png") for n in range(600)])
    read_train(data, "GQA", verify_images="decode")
    assert sorted(seen) == ["0.png", "1.png", "2.png"]


def test_images_may_live_elsewhere(data, tmp_path_factory):
    rows = tmp_path_factory.mktemp("rows")
    write(rows, "GQA", "original", [GOOD])
    with pytest.raises(BadRecordError, match="no such image file"):
        read_train(rows, "GQA")
    record = read_train(rows, "GQA", image_directory=data)[0]
    assert record.query.images == (data / "images/0.png",)


@pytest.mark.parametrize("setting", [{"on_bad_record": "warn"}, {"verify_images": True}])
def test_unknown_settings_are_refused(data, setting):
    write(data, "GQA", "original", [GOOD])
    with pytest.raises(ValueError, match=next(iter(setting))):
        read_train(data, "GQA", **setting)
