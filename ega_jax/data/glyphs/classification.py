"""Image to label: script, kind of character, typeface, style. The pool is the label set."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence

from ega_jax.data.glyphs.catalog import Catalog, Glyph, Part
from ega_jax.data.glyphs.config import GlyphsConfig
from ega_jax.data.glyphs.rows import (
    Candidate,
    Pair,
    Subset,
    assemble,
    image_query,
    labelled,
    spread,
    text_target,
)

Label = Callable[[Glyph], str | None]
_FACE_SCRIPTS = frozenset({"latin", "greek", "cyrillic"})


def classification(catalog: Catalog, config: GlyphsConfig) -> list[Subset]:
    """The classification subsets."""

    @functools.cache
    def examples(part: Part, label: Label) -> list[tuple[Glyph, str]]:
        return labelled(catalog.part(part), label)

    def subset(name: str, instruction: str, label: Label, description: str, test_part: Part = "test") -> Subset:
        def pairs(part: Part, rng: random.Random, count: int) -> list[Pair]:
            chosen = spread(rng, examples(part, label), lambda example: example[1], count)
            return [Pair(image_query(instruction, glyph.path), text_target(answer)) for glyph, answer in chosen]

        def gallery(part: Part, pairs: Sequence[Pair]) -> list[Candidate]:
            # What training can know: an out-of-distribution query chooses among the same labels.
            return [text_target(text) for text in sorted({text for _, text in examples("train", label)})]

        return assemble(
            name,
            "classification",
            description,
            config,
            pairs,
            gallery,
            distribution="in" if test_part == "test" else "out",
            test_part=test_part,
        )

    script = ("Identify the script of the letter.", _script)
    kind = ("Identify the kind of character.", _kind)
    face = ("Identify the typeface.", _face)
    style = ("Identify the style of the typeface.", _style)
    return [
        subset("Script", *script, "the script of a letter"),
        subset("Kind", *kind, "what kind of character it is"),
        subset("Face", *face, "the typeface of a letter"),
        subset("Style", *style, "whether a letter is bold, italic, both or neither"),
        subset("Script_UnseenFaces", *script, "Script in faces that training never shows", "unseen_faces"),
        subset("Style_UnseenFaces", *style, "Style in faces that training never shows", "unseen_faces"),
        subset("Kind_UnseenScripts", *kind, "Kind in scripts that training never shows", "unseen_scripts"),
    ]


def _script(glyph: Glyph) -> str | None:
    return glyph.character.script


def _kind(glyph: Glyph) -> str | None:
    return glyph.character.kind


def _face(glyph: Glyph) -> str | None:
    return glyph.face.name if glyph.character.script in _FACE_SCRIPTS else None


def _style(glyph: Glyph) -> str | None:
    return glyph.face.style if glyph.character.script in _FACE_SCRIPTS else None
