"""What retrieval and grounding rows choose among: pictures or names, close relatives of the right ones first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ega_jax.data.glyphs.catalog import Glyph
from ega_jax.data.glyphs.rows import Candidate, Pair, image_target, in_turn, text_target


def picture_gallery(glyphs: Sequence[Glyph], pairs: Sequence[Pair]) -> list[Candidate]:
    """The pictures of the golden glyphs, of their relatives, and of the rest.

    Args:
      glyphs: what there is to choose among, in an order that subsets share: the fewer pictures to encode.
      pairs: the rows that the gallery is for; their gold candidates are pictures.
    """
    return _gallery(pairs, [image_target(glyph) for glyph in _relatives_first(glyphs, pairs)])


def name_gallery(glyphs: Sequence[Glyph], pairs: Sequence[Pair]) -> list[Candidate]:
    """The names of the golden glyphs, of their relatives, and of the rest; see `picture_gallery`."""
    return _gallery(pairs, [name_target(glyph) for glyph in _relatives_first(glyphs, pairs)])


def name_target(glyph: Glyph) -> Candidate:
    """A character's name as a target; the names of its look-alikes mean the same picture."""
    return text_target(glyph.character.name, glyph.twins)


def family(glyph: Glyph) -> str:
    """What close relatives share: the letter under the diacritic, or all of the name but its last word."""
    character = glyph.character
    if character.script:
        return character.base_and_mark[0] if character.base_and_mark else character.name
    return character.name.rpartition(" ")[0] or character.name


def _relatives_first(glyphs: Sequence[Glyph], pairs: Sequence[Pair]) -> list[Glyph]:
    golden = {pair.gold.meaning for pair in pairs}
    families = {family(glyph) for glyph in glyphs if glyph.twins in golden}
    relatives = [glyph for glyph in glyphs if family(glyph) in families and glyph.twins not in golden]
    return [*in_turn(relatives, family), *glyphs]


def _gallery(pairs: Sequence[Pair], others: Iterable[Candidate]) -> list[Candidate]:
    unique = {candidate.item: candidate for candidate in (*(pair.gold for pair in pairs), *others)}
    return list(unique.values())
