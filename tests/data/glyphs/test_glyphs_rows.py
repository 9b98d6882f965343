"""Rows follow MMEB's schema, and their right answers are right, alone, and first."""

import collections

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ega_jax.data.glyphs.cache import SUBSETS
from ega_jax.data.mmeb import find_subsets, read_eval, read_train
from ega_jax.data.records import IMAGE_TOKEN
from tests.data.glyphs.conftest import SETTINGS

EXPLICIT_NEGATIVES = ("BaseLetter", "Diacritic", "FaceToFace", "Restyle", "SheetByName", "SheetByPlace")


def test_all_subsets_are_there_and_cover_the_table(rows):
    assert set(rows.info) == set(SUBSETS)
    cells = collections.Counter((about["meta_task"], about["distribution"]) for about in rows.info.values())
    meta_tasks = ("classification", "vqa", "retrieval", "grounding")
    assert all(cells[task, distribution] >= 2 for task in meta_tasks for distribution in ("in", "out"))
    assert all(about["description"] for about in rows.info.values())


def test_in_distribution_has_every_split_and_the_others_a_test_alone(rows):
    inside = {name for name, about in rows.info.items() if about["distribution"] == "in"}
    assert set(rows.train) == set(rows.validation) == inside
    assert set(rows.test) == set(SUBSETS)


def test_sizes(rows):
    assert {len(split) for split in rows.train.values()} == {SETTINGS["train_rows"]}
    assert max(map(len, rows.validation.values())) == SETTINGS["validation_rows"]
    assert min(map(len, rows.validation.values())) >= 15
    assert {len(split) for split in rows.test.values()} == {SETTINGS["test_rows"]}
    for name, row in rows.evaluation():
        if rows.info[name]["meta_task"] in ("retrieval", "grounding"):
            assert len(row["tgt_text"]) == SETTINGS["pool_size"], name


def test_columns(directory):
    train = pq.read_schema(directory / "Restyle" / "original-00000-of-00001.parquet")
    names = ["qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path"]
    assert train.names == names
    assert set(train.types) == {pa.string()}
    test = pq.read_schema(directory / "Restyle" / "test-00000-of-00001.parquet")
    assert test.names == ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"]
    assert test.types == [pa.string(), pa.string(), pa.list_(pa.string()), pa.list_(pa.string())]


def test_texts_are_in_the_style_of_mmeb(rows):
    queries = [(row["qry"], row["qry_image_path"]) for _, row in rows.training()]
    queries += [(row["qry_text"], row["qry_img_path"]) for _, row in rows.evaluation()]
    targets = [(row["pos_text"], row["pos_image_path"]) for _, row in rows.training()]
    targets += [pair for _, row in rows.evaluation() for pair in zip(row["tgt_text"], row["tgt_img_path"], strict=True)]
    for text, _ in queries:
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert len(text) < 160
    for text, path in [*queries, *targets]:
        assert text.count(IMAGE_TOKEN) == bool(path)
        assert text.startswith(f"{IMAGE_TOKEN}\n") == bool(path)
        assert text.strip()
    assert {text for text, path in targets if path} == {
        f"{IMAGE_TOKEN}\nRepresent the given image.",
        f"{IMAGE_TOKEN}\nRepresent the given cropped image.",
    }


def test_training_rows_are_distinct(rows):
    for name, split in rows.train.items():
        assert len({tuple(row.values()) for row in split}) == len(split), name


def test_pools_are_distinct_and_classification_offers_every_label(rows):
    for name, row in rows.evaluation():
        pool = list(zip(row["tgt_text"], row["tgt_img_path"], strict=True))
        assert len(set(pool)) == len(pool) >= 2, name
    for name, split in rows.test.items():
        if rows.info[name]["meta_task"] == "classification":
            assert len({frozenset(row["tgt_text"]) for row in split}) == 1
            assert len({row["tgt_text"][0] for row in split}) >= 2


def test_explicit_negatives_are_hard_and_wrong(rows, shown_by):
    for name in EXPLICIT_NEGATIVES:
        split = rows.train[name]
        having = [row for row in split if row["neg_text"]]
        assert len(having) > 0.8 * len(split), name
        for row in having:
            negative = (row["neg_text"], row["neg_image_path"])
            assert negative != (row["pos_text"], row["pos_image_path"])
            assert bool(row["neg_image_path"]) == bool(row["pos_image_path"])
    for row in rows.train["FaceToFace"]:
        if row["neg_image_path"]:
            gold, wrong = (shown_by[row[key]] for key in ("pos_image_path", "neg_image_path"))
            assert {g.character.script for g in gold} & {g.character.script for g in wrong}
            assert {g.face for g in gold} & {g.face for g in wrong}
            assert not {g.twins for g in gold} & {g.twins for g in wrong}
    others = [row for name, row in rows.training() if name not in EXPLICIT_NEGATIVES]
    assert all(row["neg_text"] == row["neg_image_path"] == "" for row in others)


@pytest.mark.parametrize(
    "name", [name for name in SUBSETS if name.startswith(("NameTo", "GlyphTo", "FaceTo", "Sheet"))]
)
def test_no_candidate_is_a_second_right_answer(rows, shown_by, catalog, name):
    twins = {glyph.character.name: glyph.twins for glyph in catalog.glyphs}
    if name.startswith("GlyphTo"):
        for row in rows.test[name]:
            meanings = [twins[text] for text in row["tgt_text"]]
            assert meanings[0] not in meanings[1:]
    else:
        for row in rows.test[name]:
            meanings = [{glyph.twins for glyph in shown_by[path]} for path in row["tgt_img_path"]]
            assert not any(meanings[0] & other for other in meanings[1:])


def test_names_lead_to_their_glyphs(rows, shown_by):
    for name in ("NameToGlyph", "NameToGlyph_UnseenFaces"):
        for row in rows.test[name]:
            asked = row["qry_text"].removeprefix("Find the glyph named: ").strip()
            assert asked in {glyph.character.name for glyph in shown_by[row["tgt_img_path"][0]]}
    for row in rows.test["GlyphToName"]:
        assert row["tgt_text"][0] in {glyph.character.name for glyph in shown_by[row["qry_img_path"]]}


def test_face_to_face_keeps_the_character_and_changes_the_picture(rows, shown_by):
    for row in rows.test["FaceToFace"] + rows.test["FaceToFace_UnseenScripts"]:
        query, gold = shown_by[row["qry_img_path"]], shown_by[row["tgt_img_path"][0]]
        assert {glyph.character for glyph in query} & {glyph.character for glyph in gold}
        assert row["qry_img_path"] != row["tgt_img_path"][0]


def test_restyle_changes_one_thing(rows, shown_by):
    asked = collections.Counter()
    for row in rows.test["Restyle"] + rows.test["Restyle_UnseenScripts"]:
        wanted = row["qry_text"].partition("same letter ")[2].strip(" .\n")
        asked[wanted] += 1
        results = set()
        for query in shown_by[row["qry_img_path"]]:
            for gold in shown_by[row["tgt_img_path"][0]]:
                if query.face.family == gold.face.family:
                    case = query.character != gold.character
                    bold, italic = query.face.bold != gold.face.bold, query.face.italic != gold.face.italic
                    small, capital = (query, gold) if wanted == "in capitals" else (gold, query)
                    if not case or chr(small.character.codepoint).upper() == chr(capital.character.codepoint):
                        results.add((case, bold, italic))
        right = {
            "in bold": 1,
            "in light weight": 1,
            "in italics": 2,
            "upright": 2,
            "in capitals": 0,
            "in lower case": 0,
        }
        assert tuple(place == right[wanted] for place in range(3)) in results
        assert row["qry_img_path"] in row["tgt_img_path"][1:]
    assert len(asked) == 6


def test_sheets_show_the_gold_crop_where_they_say(rows, shown_by):
    places = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}

    def pixels(path):
        return np.asarray(Image.open(rows.directory / path))

    for name in (name for name in SUBSETS if name.startswith("Sheet")):
        side = 3 if "ThreeByThree" in name else 2
        for row in rows.test[name]:
            sheet = pixels(row["qry_img_path"])
            assert sheet.shape == (32 * side, 32 * side)
            cells = sheet.reshape(side, 32, side, 32).swapaxes(1, 2)
            crop = pixels(row["tgt_img_path"][0])
            found = [(y, x) for y in range(side) for x in range(side) if (cells[y, x] == crop).all()]
            assert len(found) == 1
            on_sheet = row["tgt_img_path"][: side**2]
            assert all(any((pixels(path) == cell).all() for cell in cells.reshape(-1, 32, 32)) for path in on_sheet)
            if "ByPlace" in name:
                assert found[0] == places[row["qry_text"].partition("at the ")[2].strip(" .\n")]
            else:
                asked = row["qry_text"].partition("named: ")[2].strip()
                assert asked in {glyph.character.name for glyph in shown_by[row["tgt_img_path"][0]]}


def test_pictures_are_dark_on_light_and_all_are_used(rows):
    used = {row[key] for _, row in rows.training() for key in ("qry_image_path", "pos_image_path", "neg_image_path")}
    used |= {path for _, row in rows.evaluation() for path in (row["qry_img_path"], *row["tgt_img_path"])}
    used.discard("")
    written = {file.relative_to(rows.directory).as_posix() for file in (rows.directory / "images").rglob("*.png")}
    assert used == written
    for path in sorted(used)[::23]:
        with Image.open(rows.directory / path) as picture:
            assert picture.format == "PNG"
            levels = np.asarray(picture)
        assert levels.min() < 128
        assert np.median(levels) == 255


def test_our_own_reader_finds_nothing_to_mend(directory):
    assert {info.name: info.distribution for info in find_subsets(directory, "test")}["SheetByName"] == "in"
    for info in find_subsets(directory, "train"):
        train = read_train(directory, info.name)
        assert not train.skipped
        assert len(train[0].negatives) == (info.name in EXPLICIT_NEGATIVES)
    for info in find_subsets(directory, "test"):
        assert not read_eval(directory, info.name).skipped
