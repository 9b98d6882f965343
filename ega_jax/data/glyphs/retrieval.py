"""Name to glyph, glyph to name, glyph to glyph, glyph and change to glyph."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from ega_jax.data.glyphs.catalog import Catalog, Glyph, Part
from ega_jax.data.glyphs.config import GlyphsConfig
from ega_jax.data.glyphs.rows import (
    Candidate,
    Pair,
    Subset,
    assemble,
    image_query,
    image_target,
    spread,
    text_query,
    text_target,
)
from ega_jax.data.records import Distribution

_COMMON = 6  # a character is asked by name when this many of its pictures differ: one seen once cannot be learnt


def retrieval(catalog: Catalog, config: GlyphsConfig) -> list[Subset]:
    """The retrieval subsets."""
    common = common_characters(catalog)
    single = _shown_alone(catalog)

    def named(part: Part) -> list[Glyph]:
        return [glyph for glyph in catalog.part(part) if glyph.character.codepoint in common]

    def name_to_glyph(part: Part, rng: random.Random, count: int) -> list[Pair]:
        return [
            Pair(text_query(f"Find the glyph of this name: {glyph.character.name}"), image_target(glyph))
            for glyph in spread(rng, named(part), codepoint, count)
        ]

    def glyph_to_name(part: Part, rng: random.Random, count: int) -> list[Pair]:
        alone = [glyph for glyph in named(part) if glyph.path in single]
        return [
            Pair(image_query("Name the character.", glyph.path), name_target(glyph))
            for glyph in spread(rng, alone, codepoint, count)
        ]

    def face_to_face(part: Part, rng: random.Random, count: int) -> list[Pair]:
        return _face_to_face(catalog.part(part), rng, count)

    def restyle(part: Part, rng: random.Random, count: int) -> list[Pair]:
        return _restyle(catalog.part(part), rng, count)

    def pictures(part: Part, pairs: Sequence[Pair]) -> list[Candidate]:
        return picture_gallery(catalog, part, pairs, config.seed)

    def names(part: Part, pairs: Sequence[Pair]) -> list[Candidate]:
        return _unique([*(pair.gold for pair in pairs), *map(name_target, _filler(named(part), config.seed))])

    def subset(
        name: str,
        pairs: Callable[[Part, random.Random, int], list[Pair]],
        gallery: Callable[[Part, Sequence[Pair]], list[Candidate]],
        description: str,
        test_part: Part = "test",
    ) -> Subset:
        distribution: Distribution = "in" if test_part == "test" else "out"
        return assemble(
            name, "retrieval", description, config, pairs, gallery,
            distribution=distribution, test_part=test_part, pool_size=config.pool_size,
        )  # fmt: skip

    return [
        subset("NameToGlyph", name_to_glyph, pictures, "a character's name to its picture"),
        subset("GlyphToName", glyph_to_name, names, "a picture to the character's name"),
        subset(
            "FaceToFace",
            face_to_face,
            pictures,
            "a character to itself in another face; negatives: a near one",
        ),
        subset(
            "Restyle",
            restyle,
            pictures,
            "a glyph and a change to the changed glyph; negatives: another change",
        ),
        subset("NameToGlyph_UnseenFaces", name_to_glyph, pictures, "NameToGlyph in unseen faces", "unseen_faces"),
        subset("GlyphToName_UnseenFaces", glyph_to_name, names, "GlyphToName in unseen faces", "unseen_faces"),
        subset(
            "FaceToFace_UnseenScripts",
            face_to_face,
            pictures,
            "FaceToFace in unseen scripts",
            "unseen_scripts",
        ),
        subset("Restyle_UnseenScripts", restyle, pictures, "Restyle in unseen scripts", "unseen_scripts"),
    ]


def common_characters(catalog: Catalog) -> set[int]:
    """Characters that training shows often enough to learn them by name."""
    counts = Counter(glyph.character.codepoint for glyph in {g.path: g for g in catalog.part("train")}.values())
    return {codepoint for codepoint, count in counts.items() if count >= _COMMON}


def name_target(glyph: Glyph) -> Candidate:
    """A character's name as a target; the names of its look-alikes mean the same picture."""
    return text_target(glyph.character.name, glyph.twins)


def picture_gallery(catalog: Catalog, part: Part, pairs: Iterable[Pair], seed: int) -> list[Candidate]:
    """Every gold picture, then others of the part, in an order that all subsets share: the fewer to encode."""
    return _unique([*(pair.gold for pair in pairs), *map(image_target, _filler(catalog.part(part), seed))])


def near(glyph: Glyph) -> str:
    """What close relatives share: the base letter, or the start of the name."""
    both = glyph.character.base_and_mark
    return both[0] if both else glyph.character.name.rpartition(" ")[0] or glyph.character.name


def codepoint(glyph: Glyph) -> int:
    return glyph.character.codepoint


def _filler(glyphs: list[Glyph], seed: int) -> list[Glyph]:
    """Close relatives side by side, families in a shuffled order."""
    return [glyph for family in _families(glyphs, seed) for glyph in family]


def _families(glyphs: list[Glyph], seed: int) -> list[list[Glyph]]:
    families: dict[str, list[Glyph]] = defaultdict(list)
    for glyph in glyphs:
        families[near(glyph)].append(glyph)
    found = list(families.values())
    random.Random(f"{seed}/filler").shuffle(found)
    return found


def _unique(candidates: Iterable[Candidate]) -> list[Candidate]:
    return list({candidate.item: candidate for candidate in candidates}.values())


def _shown_alone(catalog: Catalog) -> set[str]:
    shown: dict[str, set[int]] = defaultdict(set)
    for glyph in catalog.glyphs:
        shown[glyph.path].add(glyph.character.codepoint)
    return {path for path, codepoints in shown.items() if len(codepoints) == 1}


def _face_to_face(glyphs: list[Glyph], rng: random.Random, count: int) -> list[Pair]:
    by_character: dict[int, list[Glyph]] = defaultdict(list)
    relatives: dict[tuple[str, str], list[Glyph]] = defaultdict(list)
    for glyph in glyphs:
        if glyph.character.script:
            by_character[glyph.character.codepoint].append(glyph)
            relatives[near(glyph), glyph.face.name].append(glyph)
    both = [
        (query, gold) for same in by_character.values() for query in same for gold in same if query.path != gold.path
    ]
    pairs = []
    for query, gold in spread(rng, both, lambda one: one[0].character.codepoint, count):
        wrong = [other for other in relatives[near(gold), gold.face.name] if other.twins != gold.twins]
        negative = image_target(rng.choice(wrong)).item if wrong else None
        pairs.append(
            Pair(
                image_query("Find the same character in another typeface.", query.path),
                image_target(gold),
                (negative,) if negative else (),
                negative,
            )
        )
    return pairs


def _restyle(glyphs: list[Glyph], rng: random.Random, count: int) -> list[Pair]:
    drawn = {
        (g.character.codepoint, g.face.family, g.face.bold, g.face.italic): g for g in glyphs if g.character.script
    }
    changes = [(glyph, *change) for glyph in drawn.values() for change in _changes(glyph, drawn)]
    pairs = []
    for query, wanted, gold in spread(rng, changes, lambda one: (one[1], one[0].twins % 64), count):
        hard = [other for _, other in _changes(query, drawn) if other.path not in (gold.path, query.path)]
        wrong = tuple(dict.fromkeys(image_target(other).item for other in hard))
        pairs.append(
            Pair(
                image_query(f"Find the same letter {wanted}.", query.path),
                image_target(gold),
                wrong,
                wrong[0] if wrong else None,
            )
        )
    return pairs


def _changes(glyph: Glyph, drawn: dict[tuple[int, str, bool, bool], Glyph]) -> Iterator[tuple[str, Glyph]]:
    """What can be asked of a letter in one word, and the glyph that results."""
    face, codepoint = glyph.face, glyph.character.codepoint
    case = glyph.character.other_case
    options: list[tuple[str, tuple[int | None, str, bool, bool]]] = [
        ("in light weight" if face.bold else "in bold", (codepoint, face.family, not face.bold, face.italic)),
        ("upright" if face.italic else "in italics", (codepoint, face.family, face.bold, not face.italic)),
        (
            "in capitals" if glyph.character.kind == "small letter" else "in lower case",
            (case, face.family, face.bold, face.italic),
        ),
    ]
    for wanted, key in options:
        if (found := drawn.get(key)) is not None and found.path != glyph.path:  # type: ignore[arg-type]
            yield wanted, found
