"""Labels and answers agree with sources that Glyphs does not use."""

import unicodedata

import pytest

from ega_jax.data.glyphs.characters import character
from ega_jax.data.glyphs.facts import box_drawing

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def asked(rows, shown_by, name):
    """(question, the characters that the picture may show, answer) of the rows of a subset, of both splits."""
    found = [(row["qry"], row["qry_image_path"], row["pos_text"]) for row in rows.train.get(name, [])]
    found += [(row["qry_text"], row["qry_img_path"], row["tgt_text"][0]) for row in rows.test[name]]
    for text, path, answer in found:
        yield text.rpartition(": ")[2].strip(), {glyph.character for glyph in shown_by[path]}, answer


def only(characters):
    (found,) = characters
    return found


def test_braille_dots_are_the_bits_of_the_code_point(rows, shown_by):
    for question, characters, answer in asked(rows, shown_by, "Braille"):
        bits = only(characters).codepoint - 0x2800
        if question == "How many dots are there?":
            assert answer == NUMBERS[bits.bit_count()]
        else:
            dot = int(question.split()[2])
            assert answer == ("yes" if bits >> (dot - 1) & 1 else "no")


def decompositions(characters):
    """(base letter's name, marks) by Unicode's canonical decomposition, of those that have one."""
    forms = [unicodedata.normalize("NFD", chr(each.codepoint)) for each in characters]
    return {(unicodedata.name(form[0]).lower(), form[1:]) for form in forms if len(form) > 1}


@pytest.mark.parametrize("name", ["Diacritic", "Diacritic_UnseenFaces"])
def test_marks_agree_with_canonical_decompositions(rows, shown_by, name):
    marks = {"acute": "\u0301", "grave": "\u0300", "diaeresis": "\u0308", "tilde": "\u0303", "macron": "\u0304"}
    marks |= {"circumflex": "\u0302", "caron": "\u030c", "breve": "\u0306", "dot below": "\u0323", "tonos": "\u0301"}
    checked = 0
    for _, characters, answer in asked(rows, shown_by, name):
        if answer in marks:
            assert marks[answer] in {mark for _, mark in decompositions(characters)}
            checked += 1
    assert checked >= 10


def test_base_letters_agree_with_canonical_decompositions(rows, shown_by):
    checked = 0
    for _, characters, answer in asked(rows, shown_by, "BaseLetter"):
        single = {base for base, marks in decompositions(characters) if len(marks) == 1}
        if len(single) == len(characters):
            assert answer in single
            checked += 1
    assert checked >= 50


def test_no_answer_looks_like_the_right_one(rows, shown_by, catalog):
    """A Latin A with a mark can be taken for a Greek one: neither may stand against the other."""
    twins = {glyph.character.name: glyph.twins for glyph in catalog.glyphs}
    for row in rows.test["BaseLetter"]:
        known = [twins[text] for text in row["tgt_text"] if text in twins]
        assert known.count(twins.get(row["tgt_text"][0])) <= 1
    for row in rows.test["Diacritic"]:
        if row["tgt_text"][0] == "acute":
            assert "tonos" not in row["tgt_text"]


@pytest.mark.parametrize(
    ("point", "arms"),
    [
        (0x2500, {"left": "light", "right": "light", "up": "none", "down": "none"}),
        (0x2519, {"left": "heavy", "right": "none", "up": "light", "down": "none"}),
        (0x2521, {"left": "none", "right": "heavy", "up": "heavy", "down": "light"}),
        (0x2546, {"left": "light", "right": "heavy", "up": "light", "down": "heavy"}),
        (0x255A, {"left": "none", "right": "double", "up": "double", "down": "none"}),
        (0x256B, {"left": "light", "right": "light", "up": "double", "down": "double"}),
        (0x257E, {"left": "heavy", "right": "light", "up": "none", "down": "none"}),
    ],
)
def test_box_drawings(point, arms):
    assert {q.text.split()[-1].strip("?"): q.answer for q in box_drawing(character(point))} == arms


def test_arrows_point_where_they_point(rows, shown_by):
    samples = {0x2190: "left", 0x2191: "up", 0x2192: "right", 0x2193: "down", 0x2194: "left and right"}
    samples |= {0x2196: "up left", 0x2197: "up right", 0x2198: "down right", 0x2199: "down left", 0x2195: "up and down"}
    seen = set()
    for _, characters, answer in asked(rows, shown_by, "Arrow"):
        for shown in characters:
            assert answer == samples.get(shown.codepoint, answer)
            assert shown.name.count("wards") <= 1
        seen.add(answer)
    assert seen == set(samples.values())


def test_dominoes_agree_with_the_order_of_code_points(rows, shown_by):
    for question, characters, answer in asked(rows, shown_by, "Domino"):
        first, second = divmod((only(characters).codepoint - 0x1F031) % 50, 7)
        half = second if "right" in question or "lower" in question else first
        assert answer == NUMBERS[first + second if "there" in question else half]


def test_cards_and_chess_pieces_agree_with_the_order_of_code_points(rows, shown_by):
    for question, characters, answer in asked(rows, shown_by, "PlayingCard"):
        suit, rank = divmod(only(characters).codepoint - 0x1F0A0, 16)
        ranks = ("", "ace", *NUMBERS[2:11], "jack", "knight", "queen", "king")
        assert answer == (ranks[rank] if "rank" in question else ("spades", "hearts", "diamonds", "clubs")[suit])
    for question, characters, answer in asked(rows, shown_by, "ChessPiece"):
        colour, piece = divmod(only(characters).codepoint - 0x2654, 6)
        pieces = ("king", "queen", "rook", "bishop", "knight", "pawn")
        assert answer == (pieces[piece] if "piece" in question else ("white", "black")[colour])


@pytest.mark.parametrize("name", ["Script", "Script_UnseenFaces", "LetterCase", "Kind_UnseenScripts"])
def test_labels_fit_every_character_that_the_picture_may_show(rows, shown_by, name):
    cases = {"Lu": "capital letter", "Ll": "small letter"}
    for _, characters, answer in asked(rows, shown_by, name):
        for shown in characters:
            if name.startswith("Script"):
                assert shown.script in (None, answer)
            elif shown.script:
                assert cases.get(unicodedata.category(chr(shown.codepoint)), answer) == answer


@pytest.mark.parametrize("name", ["Face", "Style", "Style_UnseenFaces"])
def test_faces_and_styles_are_those_of_the_font_that_drew(rows, shown_by, name):
    label = "style" if name.startswith("Style") else "name"
    for row in rows.test[name]:
        assert row["tgt_text"][0] in {getattr(glyph.face, label) for glyph in shown_by[row["qry_img_path"]]}
