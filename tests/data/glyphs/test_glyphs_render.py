"""Pictures: no placeholder boxes, nothing blank, and what tells characters apart is kept."""

import unicodedata

import numpy as np
import pytest

from ega_jax.data.glyphs.characters import character
from ega_jax.data.glyphs.faces import FACES
from ega_jax.data.glyphs.render import draw


def face(name):
    return next(face for face in FACES if face.name == name)


SANS = face("dejavu sans regular")


def picture(char, of=SANS, size=32):
    return np.frombuffer(draw(of, char, size), np.uint8).reshape(size, size)


def test_sixteen_faces_and_three_held_out():
    assert len({face.file for face in FACES}) == len({face.name for face in FACES}) == 16
    assert all(face.file.startswith(("DejaVu", "STIXGeneral")) and face.path.is_file() for face in FACES)
    held_out = [face for face in FACES if face.held_out]
    assert len(held_out) == 3
    for face in held_out:
        assert any(other.family == face.family and not other.held_out for other in FACES)
        assert any(other.style == face.style and not other.held_out for other in FACES)


def test_no_glyph_is_the_box_of_a_missing_one(catalog):
    drawn = {}
    for glyph in catalog.glyphs:
        drawn.setdefault(glyph.face, set()).add(catalog.pixels[glyph.path])
    for face in FACES:
        assert 0x10FFFD not in face.codepoints()
        box = draw(face, "\U0010fffd", 32)
        assert box not in drawn[face]
    assert sum(draw(face, "\U0010fffd", 32) is not None for face in FACES) >= 12  # STIX leaves a blank


def test_every_character_can_be_told_by_name(catalog):
    for glyph in catalog.glyphs[::50]:
        assert unicodedata.name(chr(glyph.character.codepoint)).lower() == glyph.character.name


def test_no_picture_is_blank_or_touches_the_edge(catalog):
    pixels = np.stack([np.frombuffer(each, np.uint8).reshape(32, 32) for each in catalog.pixels.values()])
    assert pixels.min((1, 2)).max() < 128
    assert pixels[:, [0, -1]].min() == pixels[:, :, [0, -1]].min() == 255


@pytest.mark.parametrize(("one", "other"), ["oO", "-_", "⠁⠈", "⠁⠄", ".·", "cC", "╵╷", "╴╶", "'."])
def test_size_and_position_are_kept(one, other):
    difference = np.abs(picture(one).astype(int) - picture(other))
    assert difference.sum() > 2 * 255


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_capitals_are_equally_tall_and_letters_stand_on_one_line(face):
    ink = [np.flatnonzero((picture(char, face) < 128).any(1)) for char in "HEx"]
    assert [abs(rows[-1] - rows[0] + 1 - 20) <= 1 for rows in ink] == [True, True, False]
    assert {rows[-1] for rows in ink} <= {23, 24, 25}


@pytest.mark.parametrize("size", [16, 24, 48, 64])
def test_other_sizes(size):
    for char in "Ag⣿╋🂡":
        small = picture(char, size=size)
        assert small.shape == (size, size)
        assert small.min() < 128


def test_pictures_depend_on_nothing_drawn_before():
    first = draw(SANS, "g", 32)
    for char in "⟺🁂╋":
        draw(SANS, char, 32)
    assert draw(SANS, "g", 32) == first


def test_look_alikes_are_twins_and_others_are_not(catalog):
    assert catalog.twins[ord("A")] == catalog.twins[0x391] == catalog.twins[0x410]
    assert catalog.twins[ord("A")] != catalog.twins[ord("B")]
    assert catalog.twins[ord("a")] != catalog.twins[ord("á")]
    sizes = {}
    for codepoint, twins in catalog.twins.items():
        sizes.setdefault(twins, []).append(codepoint)
    assert max(map(len, sizes.values())) < 12  # look-alikes of look-alikes must not swallow the alphabet


@pytest.mark.parametrize("codepoint", [0x20, 0x0A, 0xA0, 0x301, 0x378, 0xE000, 0x200B, 0xD800, 0x1D400, 0x10FFFF])
def test_what_cannot_be_drawn_by_itself_is_no_character(codepoint):
    assert character(codepoint) is None


@pytest.mark.parametrize(
    ("char", "script", "kind"),
    [
        ("A", "latin", "capital letter"),
        ("ß", "latin", "small letter"),
        ("Ж", "cyrillic", "capital letter"),
        ("ש", "hebrew", "caseless letter"),
        ("ᐁ", "canadian syllabics", "caseless letter"),
        ("ա", "armenian", "small letter"),
        ("7", None, "digit"),
        ("½", None, "fraction"),
        ("→", None, "arrow"),
        ("≤", None, "mathematical operator"),
        ("┼", None, "box drawing"),
        ("⠿", None, "braille pattern"),
        ("🂡", None, "playing card"),
        ("♞", None, "chess piece"),
        ("€", None, "currency sign"),
        ("?", None, "punctuation"),
    ],
)
def test_scripts_and_kinds(char, script, kind):
    found = character(ord(char))
    assert (found.script, found.kind) == (script, kind)


def test_other_case_goes_both_ways():
    assert character(ord("a")).other_case == ord("A")
    assert character(ord("Ω")).other_case == ord("ω")
    assert character(ord("ß")).other_case is None
    assert character(ord("ſ")).other_case is None
    assert character(ord("7")).other_case is None
