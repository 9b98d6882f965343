"""What training shows, no test asks; what is held out as a whole, training never shows."""

import pytest

from ega_jax.data.glyphs.characters import HELD_OUT_KINDS, HELD_OUT_SCRIPTS

PICTURES = ("qry_image_path", "pos_image_path", "neg_image_path")
TEXTS = ("qry", "pos_text", "neg_text")


@pytest.fixture(scope="module")
def trained_on(rows):
    """The paths of all pictures in training rows, sheets included."""
    return {row[key] for _, row in rows.training() for key in PICTURES} - {""}


def files(rows, paths):
    return {(rows.directory / path).read_bytes() for path in paths}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_evaluation_image_stands_in_any_training_row(rows, trained_on, split):
    """Neither a query's nor a candidate's; not in the same subset and not in another; compared by bytes."""
    for rows_of_subset in getattr(rows, split).values():
        paths = {path for row in rows_of_subset for path in (row["qry_img_path"], *row["tgt_img_path"])} - {""}
        assert not paths & trained_on
    shown = {path for each in getattr(rows, split).values() for row in each for path in row["tgt_img_path"]}
    shown |= {row["qry_img_path"] for each in getattr(rows, split).values() for row in each}
    assert not files(rows, shown - {""}) & files(rows, trained_on)


def test_validation_and_test_do_not_share_queries(rows):
    for name in rows.validation:
        held = [
            {(row["qry_text"], row["qry_img_path"]) for row in split[name]} for split in (rows.validation, rows.test)
        ]
        golds = [{row["tgt_img_path"][0] for row in split[name]} - {""} for split in (rows.validation, rows.test)]
        if name != "NameToGlyph":  # a name may be asked twice, of two faces
            assert not held[0] & held[1]
        assert not golds[0] & golds[1]


def test_same_picture_in_the_catalog_means_same_path_and_part(catalog):
    assert len(set(catalog.pixels.values())) == len(catalog.pixels)
    parts = {}
    for glyph in catalog.glyphs:
        assert parts.setdefault(glyph.path, glyph.part) == glyph.part


def test_held_out_faces_draw_no_training_image(rows, trained_on, shown_by, catalog):
    held_out = {glyph.path for glyph in catalog.glyphs if glyph.face.held_out}
    assert len(held_out) > 3000
    assert not held_out & trained_on
    for name in (name for name in rows.info if name.endswith("_UnseenFaces")):
        for row in rows.test[name]:
            shown = [path for path in (row["qry_img_path"], *row["tgt_img_path"]) if path in shown_by]
            assert shown or name.startswith("Sheet")
            assert all(glyph.face.held_out for path in shown for glyph in shown_by[path])


def test_held_out_scripts_are_in_no_training_row(rows, trained_on, shown_by):
    assert {"armenian", "georgian"} == HELD_OUT_SCRIPTS
    seen = {glyph.character.script for path in trained_on & set(shown_by) for glyph in shown_by[path]}
    assert not seen & HELD_OUT_SCRIPTS
    assert {"latin", "greek", "cyrillic"} <= seen
    assert not any(script in row[key] for _, row in rows.training() for key in TEXTS for script in HELD_OUT_SCRIPTS)
    for name in (name for name in rows.info if name.endswith("_UnseenScripts")):
        for row in rows.test[name]:
            shown = [path for path in (row["qry_img_path"], *row["tgt_img_path"]) if path in shown_by]
            names = [glyph.character.name for path in shown for glyph in shown_by[path]]
            assert all(HELD_OUT_SCRIPTS & set(name.split()) for name in names)


def test_held_out_symbols_are_in_no_training_row(rows, trained_on, shown_by):
    seen = {glyph.character.kind for path in trained_on & set(shown_by) for glyph in shown_by[path]}
    assert not seen & HELD_OUT_KINDS
    words = ("domino", "playing card", "chess")
    assert not any(word in row[key] for _, row in rows.training() for key in TEXTS for word in words)


def test_held_out_questions_are_never_trained_on(rows):
    trained = {row["qry"] for _, row in rows.training()}
    for name in ("LetterCase", "PlayingCard", "ChessPiece"):
        assert not {row["qry_text"] for row in rows.test[name]} & trained


def test_held_out_braille_and_boxes_are_new_characters(rows, shown_by):
    for name in ("Braille", "BoxDrawing", "Arrow"):
        trained = {g.character for row in rows.train[name] for g in shown_by[row["qry_image_path"]]}
        tested = {g.character for row in rows.test[name] for g in shown_by[row["qry_img_path"]]}
        assert tested
        assert not trained & tested


def test_names_asked_in_the_test_are_of_characters_that_training_can_show(catalog):
    trained = {glyph.character.codepoint for glyph in catalog.part("train")}
    assert len(catalog.common) > 1000
    assert not catalog.common - trained
