"""What Unicode says about a character, as far as Glyphs asks."""

from __future__ import annotations

import dataclasses
import functools
import unicodedata

SCRIPTS: dict[str, str] = {
    "latin": "latin",
    "greek": "greek",
    "cyrillic": "cyrillic",
    "arabic": "arabic",
    "hebrew": "hebrew",
    "canadian": "canadian syllabics",
    "tifinagh": "tifinagh",
    "lao": "lao",
    "nko": "nko",
    "lisu": "lisu",
    "old": "old italic",
    "ogham": "ogham",
    "coptic": "coptic",
    "armenian": "armenian",
    "georgian": "georgian",
}
"""A letter's script, by the first word of its name."""

HELD_OUT_SCRIPTS = frozenset({"armenian", "georgian"})
"""No character of these scripts stands in any training row."""

HELD_OUT_KINDS = frozenset({"domino tile", "playing card", "chess piece"})
"""No symbol of these kinds stands in any training row."""

# (first, last, kind) of the Unicode blocks whose characters are all of one kind.
_BLOCKS = (
    (0x2190, 0x21FF, "arrow"),
    (0x27F0, 0x27FF, "arrow"),
    (0x2900, 0x297F, "arrow"),
    (0x2200, 0x22FF, "mathematical operator"),
    (0x2A00, 0x2AFF, "mathematical operator"),
    (0x2300, 0x23FF, "technical symbol"),
    (0x2500, 0x257F, "box drawing"),
    (0x2580, 0x259F, "block element"),
    (0x25A0, 0x25FF, "geometric shape"),
    (0x2654, 0x265F, "chess piece"),
    (0x2700, 0x27BF, "dingbat"),
    (0x2800, 0x28FF, "braille pattern"),
    (0x4DC0, 0x4DFF, "hexagram"),
    (0x1D300, 0x1D356, "tetragram"),
    (0x1F030, 0x1F09F, "domino tile"),
    (0x1F0A0, 0x1F0FF, "playing card"),
)
_NAME_STARTS = (
    ("vulgar fraction", "fraction"),
    ("roman numeral", "roman numeral"),
    ("small roman numeral", "roman numeral"),
    ("circled", "circled character"),
    ("superscript", "superscript or subscript"),
    ("subscript", "superscript or subscript"),
    ("modifier letter", "modifier letter"),
)
_CATEGORIES = {
    "Lu": "capital letter",
    "Ll": "small letter",
    "Lo": "caseless letter",
    "Nd": "digit",
    "Sc": "currency sign",
    "Sm": "mathematical operator",
    "Pc": "punctuation",
    "Pd": "punctuation",
    "Ps": "punctuation",
    "Pe": "punctuation",
    "Pi": "punctuation",
    "Pf": "punctuation",
    "Po": "punctuation",
}


@dataclasses.dataclass(frozen=True)
class Character:
    """A Unicode character that can be drawn by itself.

    Attributes:
      codepoint: its number.
      name: its official name in lower case (names compare without case: UAX 44, rule LM2).
      script: of a letter, one of `SCRIPTS`' values; None for anything else.
      kind: what sort of character it is, in plain words; None when no sort of ours fits.
    """

    codepoint: int
    name: str
    script: str | None
    kind: str | None

    @property
    def held_out(self) -> str | None:
        """ "unseen_scripts" or "unseen_symbols" when no training row may show this character, else None."""
        if not HELD_OUT_SCRIPTS.isdisjoint(self.name.split()):  # a script's punctuation goes with its letters
            return "unseen_scripts"
        return "unseen_symbols" if self.kind in HELD_OUT_KINDS else None

    @functools.cached_property
    def base_and_mark(self) -> tuple[str, str] | None:
        """("latin small letter a", "ring above and acute") of a letter with a diacritic."""
        base, _, mark = self.name.partition(" with ")
        return (base, mark) if mark and self.script and lookup(base) is not None else None

    @property
    def other_case(self) -> int | None:
        """The code point of the letter in the other case, where that is one character and goes both ways."""
        char = chr(self.codepoint)
        swapped = char.swapcase()
        return ord(swapped) if len(swapped) == 1 and swapped != char and swapped.swapcase() == char else None


@functools.cache
def character(codepoint: int) -> Character | None:
    """The character with this number, or None where nothing can be drawn by itself.

    Unassigned and private code points, controls and formats, separators (blank) and combining marks (drawn on
    another letter) give None, and so do the alphabets of mathematics: letters of one face in the style of another.
    """
    char = chr(codepoint)
    category, name = unicodedata.category(char), unicodedata.name(char, "").lower()
    if category[0] in "CMZ" or not name or 0x1D400 <= codepoint <= 0x1D7FF:
        return None
    script = SCRIPTS.get(name.split(" ", 1)[0]) if category in ("Lu", "Ll", "Lo") and " letter " in f"{name} " else None
    if category == "Lo" and script is None and name.startswith(("canadian syllabics ", "lisu ")):
        script = SCRIPTS[name.split(" ", 1)[0]]
    return Character(codepoint, name, script, _kind(codepoint, category, name))


def lookup(name: str) -> int | None:
    """The code point of the character of this name, in either case, or None."""
    try:
        found = unicodedata.lookup(name.upper())
    except KeyError:
        return None
    return ord(found) if len(found) == 1 else None


def _kind(codepoint: int, category: str, name: str) -> str | None:
    for first, last, kind in _BLOCKS:
        if first <= codepoint <= last:
            return kind
    for start, kind in _NAME_STARTS:
        if name.startswith(start):
            return kind
    return _CATEGORIES.get(category)
