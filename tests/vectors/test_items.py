"""What is read to be embedded, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ega_jax.data.records import BadRecordError
from ega_jax.errors import BadInputError
from ega_jax.vectors.items import read_items


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "deep/a.jpg", "deep/c.PNG"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(path)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path


def write(folder, *rows):
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_holds_its_pictures_in_order(folder):
    found = read_items(folder / "pictures", instruction="Represent the given image.").items
    assert [item.id for item in found] == ["b.png", "deep/a.jpg", "deep/c.PNG"]
    assert found[0].side.text == "<|image_1|>\nRepresent the given image."
    assert found[1].side.images == (folder / "pictures" / "deep/a.jpg",)


def test_rows_of_both_formats_are_alike(folder):
    rows = [
        {"id": "x", "text": "a cat", "image": None, "images": None},
        {"id": None, "text": "both", "image": None, "images": ["pictures/b.png", "pictures/deep/a.jpg"]},
        {"id": "z", "text": None, "image": "pictures/b.png", "images": None},
    ]
    lines = read_items(write(folder, *rows), instruction="Find:").items
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "items.parquet")
    assert read_items(folder / "items.parquet", instruction="Find:").items == lines
    assert [item.id for item in lines] == ["x", "1", "z"]
    assert [item.side.text for item in lines] == [
        "Find: a cat",
        "<|image_1|>\n<|image_2|>\nFind: both",
        "<|image_1|>\nFind:",
    ]
    assert (lines[1].text, lines[1].images) == ("both", ("pictures/b.png", "pictures/deep/a.jpg"))


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"id": "x"}, "text", "neither text nor image"),
        ({"image": "../secret.png"}, "image", "path with '..'"),
        ({"image": "pictures/none.png"}, "image", "no such image file"),
        ({"image": "pictures/notes.txt"}, "image", "not an image"),
        ({"image": "pictures/b.png", "images": ["pictures/b.png"]}, "images", "one of the two"),
        ({"txt": "a cat"}, "txt", "did you mean 'text'"),
        ({"text": 7}, "text", "a number"),
    ],
)
def test_a_bad_row_is_named_or_left_out_and_counted(folder, row, field, reason):
    path = write(folder, {"text": "good"}, row)
    with pytest.raises(BadRecordError, match="row 1") as told:
        read_items(path)
    assert (told.value.field, told.value.row) == (field, 1)
    assert reason in told.value.reason
    found = read_items(path, on_bad_record="skip")
    assert len(found.items) == 1
    assert (found.skipped.skipped, found.skipped.rows) == (1, 2)


def test_a_picture_that_breaks_off_is_seen_where_it_is_decoded(folder):
    path = folder / "pictures" / "b.png"
    path.write_bytes(path.read_bytes()[:-30])
    source = write(folder, {"image": "pictures/b.png"}, {"text": "good"})
    assert len(read_items(source).items) == 2
    assert len(read_items(source, on_bad_record="skip", decode=True).items) == 1


def test_what_cannot_be_a_source_is_refused(folder):
    with pytest.raises(BadInputError, match=r"give a \.jsonl"):
        read_items(folder / "pictures" / "notes.txt")
    with pytest.raises(BadInputError, match="holds nothing"):
        read_items(write(folder))
    with pytest.raises(BadInputError, match="two rows have the id 'a'"):
        read_items(write(folder, {"id": "a", "text": "x"}, {"id": "a", "text": "y"}))
