"""Image and question to answer. The pool is every answer of the subset."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ega_jax.data.glyphs import facts
from ega_jax.data.glyphs.catalog import Catalog, Glyph, Part
from ega_jax.data.glyphs.config import GlyphsConfig
from ega_jax.data.glyphs.diacritics import diacritic_questions
from ega_jax.data.glyphs.facts import Ask, Question
from ega_jax.data.glyphs.rows import Candidate, Pair, Subset, assemble, image_query, spread, text_target
from ega_jax.data.records import Distribution


def question_answering(catalog: Catalog, config: GlyphsConfig) -> list[Subset]:
    """The question-answering subsets."""

    def subset(
        name: str,
        ask: Ask,
        description: str,
        distribution: Distribution = "in",
        test_part: Part = "test",
    ) -> Subset:
        def pairs(part: Part, rng: random.Random, count: int) -> list[Pair]:
            chosen = spread(rng, _asked(catalog.part(part), ask), lambda one: (one[1].text, one[1].answer), count)
            return [_pair(glyph.path, question) for glyph, question in chosen]

        def gallery(part: Part, pairs: Sequence[Pair]) -> list[Candidate]:
            parts: set[Part] = {part, "train"} if distribution == "in" else {part}
            characters = {glyph.character for each in parts for glyph in catalog.part(each)}
            asked = [question for character in characters for question in ask(character)]
            return sorted({text_target(question.answer, question.meaning) for question in asked})

        return assemble(
            name, "vqa", description, config, pairs, gallery, distribution=distribution, test_part=test_part
        )

    base, mark = diacritic_questions(catalog)
    faces, never = "Diacritic in faces that training never shows", "training never shows one"
    return [
        subset("BaseLetter", base, "the letter under a diacritic; negatives: another letter with the same mark"),
        subset("Diacritic", mark, "the diacritic of a letter; negatives: another mark of the same letter"),
        subset("Braille", facts.braille, "which dots of a Braille cell are raised, and how many"),
        subset("BoxDrawing", facts.box_drawing, "the line that leads each way from the middle of a box drawing"),
        subset("Arrow", facts.arrow, "where an arrow points"),
        subset("LetterCase", facts.letter_case, "capital or small letter; training never asks this", "out"),
        subset("Diacritic_UnseenFaces", mark, faces, "out", "unseen_faces"),
        subset("Domino", facts.domino, f"dots of a domino; {never}", "out", "unseen_symbols"),
        subset("PlayingCard", facts.playing_card, f"suit and rank of a card; {never}", "out", "unseen_symbols"),
        subset("ChessPiece", facts.chess_piece, f"piece and colour; {never}", "out", "unseen_symbols"),
    ]


def _pair(path: str, question: Question) -> Pair:
    wrong = text_target(question.near_miss).item if question.near_miss else None
    query = image_query(f"Answer the question: {question.text}", path)
    return Pair(query, text_target(question.answer, question.meaning), (wrong,) if wrong else (), wrong)


def _asked(glyphs: Sequence[Glyph], ask: Ask) -> Iterator[tuple[Glyph, Question]]:
    """Every question about every picture, save where two that look the same differ in the answer."""
    asked: dict[tuple[str, str], list[tuple[Glyph, Question]]] = defaultdict(list)
    for glyph in glyphs:
        for question in ask(glyph.character):
            asked[glyph.path, question.text].append((glyph, question))
    for found in asked.values():
        if len({question.answer for _, question in found}) == 1:
            yield found[0]
