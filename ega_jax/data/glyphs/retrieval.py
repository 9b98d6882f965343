"""Name to glyph, glyph to name, glyph to glyph, glyph and change to glyph."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from ega_jax.data.glyphs.catalog import Catalog, Glyph, Part
from ega_jax.data.glyphs.config import GlyphsConfig
from ega_jax.data.glyphs.faces import Face
from ega_jax.data.glyphs.galleries import family, name_gallery, name_target, picture_gallery
from ega_jax.data.glyphs.rows import (
    Candidate,
    Item,
    Pair,
    Subset,
    assemble,
    image_query,
    image_target,
    spread,
    text_query,
)

_Pairs = Callable[[list[Glyph], random.Random, int], list[Pair]]
_Gallery = Callable[[Sequence[Glyph], Sequence[Pair]], list[Candidate]]


def retrieval(catalog: Catalog, config: GlyphsConfig) -> list[Subset]:
    """The retrieval subsets."""

    def subset(
        name: str,
        make_pairs: _Pairs,
        make_gallery: _Gallery,
        choose: Callable[[Part], list[Glyph]],
        description: str,
        test_part: Part = "test",
    ) -> Subset:
        return assemble(
            name,
            "retrieval",
            description,
            config,
            lambda part, rng, count: make_pairs(choose(part), rng, count),
            lambda part, pairs: make_gallery(choose(part), pairs),
            distribution="in" if test_part == "test" else "out",
            test_part=test_part,
            pool_size=config.pool_size,
        )

    def common(part: Part) -> list[Glyph]:
        return [glyph for glyph in catalog.part(part) if glyph.character.codepoint in catalog.common]

    def unmistakable(part: Part) -> list[Glyph]:
        return [glyph for glyph in common(part) if glyph.path not in catalog.ambiguous]

    def letters(part: Part) -> list[Glyph]:
        return [glyph for glyph in catalog.part(part) if glyph.character.script]

    to_glyph = (name_to_glyph, picture_gallery, common)
    to_name = (glyph_to_name, name_gallery, unmistakable)
    to_face = (face_to_face, picture_gallery, letters)
    to_style = (restyle, picture_gallery, letters)
    faces, scripts = "in faces that training never shows", "in scripts that training never shows"
    return [
        subset("NameToGlyph", *to_glyph, "a character's name to its picture"),
        subset("GlyphToName", *to_name, "a picture to the character's name"),
        subset("FaceToFace", *to_face, "a letter to itself in another face; negatives: a relative in that face"),
        subset("Restyle", *to_style, "a letter and a change to the changed letter; negatives: another change"),
        subset("NameToGlyph_UnseenFaces", *to_glyph, f"NameToGlyph {faces}", "unseen_faces"),
        subset("GlyphToName_UnseenFaces", *to_name, f"GlyphToName {faces}", "unseen_faces"),
        subset("FaceToFace_UnseenScripts", *to_face, f"FaceToFace {scripts}", "unseen_scripts"),
        subset("Restyle_UnseenScripts", *to_style, f"Restyle {scripts}", "unseen_scripts"),
    ]


def name_to_glyph(glyphs: list[Glyph], rng: random.Random, count: int) -> list[Pair]:
    """Text to image."""
    return [
        Pair(text_query(f"Find the glyph named: {glyph.character.name}"), image_target(glyph))
        for glyph in spread(rng, glyphs, codepoint, count)
    ]


def glyph_to_name(glyphs: list[Glyph], rng: random.Random, count: int) -> list[Pair]:
    """Image to text."""
    return [
        Pair(image_query("Name the character.", glyph.path), name_target(glyph))
        for glyph in spread(rng, glyphs, codepoint, count)
    ]


def face_to_face(glyphs: list[Glyph], rng: random.Random, count: int) -> list[Pair]:
    """Image to image: the same letter, drawn otherwise."""
    drawings: dict[int, list[Glyph]] = defaultdict(list)
    relatives: dict[tuple[Face, str | None], list[Glyph]] = defaultdict(list)
    for glyph in glyphs:
        drawings[codepoint(glyph)].append(glyph)
        relatives[glyph.face, family(glyph)].append(glyph)
        relatives[glyph.face, glyph.character.script].append(glyph)
    couples = [
        (query, gold) for same in drawings.values() for query in same for gold in same if query.path != gold.path
    ]
    pairs = []
    for query, gold in spread(rng, couples, lambda couple: codepoint(couple[0]), count):
        near = [other for other in relatives[gold.face, family(gold)] if other.twins != gold.twins]
        far = [other for other in relatives[gold.face, gold.character.script] if other.twins != gold.twins]
        negative = _item(rng.choice(near or far)) if near or far else None
        question = image_query("Find the same character in another typeface.", query.path)
        pairs.append(Pair(question, image_target(gold), (negative,) if negative else (), negative))
    return pairs


def restyle(glyphs: list[Glyph], rng: random.Random, count: int) -> list[Pair]:
    """Image and text to image: the same letter after one change of weight, slant or case."""
    drawn = {_style_key(glyph): glyph for glyph in glyphs}
    changes = [(glyph, *change) for glyph in drawn.values() for change in _changes(glyph, drawn)]
    pairs = []
    for query, wanted, gold in spread(rng, changes, lambda change: (change[1], change[0].character.script), count):
        # Other changes, or none, are wrong even though they show the right letter.
        others = [*(other for _, other in _changes(query, drawn)), query]
        wrong = tuple(dict.fromkeys(_item(other) for other in others if other.path != gold.path))
        question = image_query(f"Find the same letter {wanted}.", query.path)
        pairs.append(Pair(question, image_target(gold), wrong, wrong[0]))
    return pairs


def codepoint(glyph: Glyph) -> int:
    """The number of the glyph's character."""
    return glyph.character.codepoint


def _item(glyph: Glyph) -> Item:
    return image_target(glyph).item


def _style_key(glyph: Glyph) -> tuple[int | None, str, bool, bool]:
    return codepoint(glyph), glyph.face.family, glyph.face.bold, glyph.face.italic


def _changes(glyph: Glyph, drawn: dict[tuple[int | None, str, bool, bool], Glyph]) -> Iterator[tuple[str, Glyph]]:
    """What can be asked of a letter in a word or two, and the glyph that results."""
    number, name, bold, italic = _style_key(glyph)
    case = "in capitals" if glyph.character.kind == "small letter" else "in lower case"
    options = (
        ("in light weight" if bold else "in bold", (number, name, not bold, italic)),
        ("upright" if italic else "in italics", (number, name, bold, not italic)),
        (case, (glyph.character.other_case, name, bold, italic)),
    )
    for wanted, key in options:
        if (found := drawn.get(key)) is not None and found.path != glyph.path:
            yield wanted, found
