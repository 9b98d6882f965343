"""Image and question to answer. The pool is every answer of the subset."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

from ega_jax.data.glyphs.catalog import Catalog, Glyph, Part
from ega_jax.data.glyphs.characters import Character, lookup
from ega_jax.data.glyphs.config import GlyphsConfig
from ega_jax.data.glyphs.rows import Candidate, Pair, Subset, assemble, image_query, spread, text_target
from ega_jax.data.records import Distribution

Ask = Callable[[Character], list["Question"]]
NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


class Question(NamedTuple):
    """A question about a character, its answer, and perhaps a wrong answer that comes close.

    Attributes:
      text: the question.
      answer: the answer.
      near_miss: the wrong answer.
      meaning: equal for answers that name what looks the same; the answer itself when None.
    """

    text: str
    answer: str
    near_miss: str | None = None
    meaning: Hashable = None


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

    base, mark = _diacritic_questions(catalog)
    return [
        subset("BaseLetter", base, "the letter under a diacritic; negatives: another letter with the same mark"),
        subset("Diacritic", mark, "the diacritic of a letter; negatives: another mark of the same letter"),
        subset("Braille", _braille, "which dots of a Braille cell are raised, and how many"),
        subset("BoxDrawing", _box_drawing, "the line that leads each way from the middle of a box drawing"),
        subset("Arrow", _arrow, "where an arrow points"),
        subset("LetterCase", _letter_case, "whether a letter is capital; a question that training never asks", "out"),
        subset(
            "Diacritic_UnseenFaces",
            mark,
            "Diacritic in faces that training never shows",
            "out",
            "unseen_faces",
        ),
        subset("Domino", _domino, "dots of a domino; training never shows one", "out", "unseen_symbols"),
        subset(
            "PlayingCard",
            _playing_card,
            "suit and rank of a card; training never shows one",
            "out",
            "unseen_symbols",
        ),
        subset("ChessPiece", _chess_piece, "piece and colour; training never shows one", "out", "unseen_symbols"),
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


# Names of one mark in different scripts, or on letters of different shape.
_SAME_MARKS = {"tonos": "acute", "oxia": "acute", "varia": "grave", "vrachy": "breve", "dialytika": "diaeresis"}
_SAME_MARKS |= {"comma below": "cedilla", "prosgegrammeni": "ypogegrammeni", "slash": "stroke"}
_LEAST_LETTERS = 8  # that a mark must stand on, to be asked for


def _diacritic_questions(catalog: Catalog) -> tuple[Ask, Ask]:
    """Asks for the base letter, and for the mark."""
    letters = {glyph.character for glyph in catalog.glyphs if not glyph.character.held_out}
    composed = [letter.base_and_mark for letter in letters if letter.base_and_mark]
    counts = Counter(mark for _, mark in composed)
    known = {(base, mark) for base, mark in composed if counts[mark] >= _LEAST_LETTERS}
    marks, bases = defaultdict(list), defaultdict(list)
    for base, mark in sorted(known):
        marks[base].append(mark)
        bases[mark].append(base)

    def base_meaning(base: str) -> Hashable:
        number = lookup(base)
        return base if number is None else catalog.twins.get(number, number)

    def mark_meaning(mark: str) -> Hashable:
        return re.sub("|".join(_SAME_MARKS), lambda found: _SAME_MARKS[found[0]], mark)

    def ask_base(character: Character) -> list[Question]:
        if character.base_and_mark not in known:
            return []
        base, mark = character.base_and_mark
        near_miss = _neighbour(bases[mark], base, base_meaning)
        return [Question("Which letter carries the mark?", base, near_miss, base_meaning(base))]

    def ask_mark(character: Character) -> list[Question]:
        if character.base_and_mark not in known:
            return []
        base, mark = character.base_and_mark
        near_miss = _neighbour(marks[base], mark, mark_meaning)
        return [Question("Which mark does the letter carry?", mark, near_miss, mark_meaning(mark))]

    return ask_base, ask_mark


def _neighbour(choices: list[str], right: str, meaning: Callable[[str], Hashable]) -> str | None:
    """The nearest choice in front of the right one that means something else, or None."""
    place = choices.index(right)
    others = [*reversed(choices[:place]), *reversed(choices[place + 1 :])]
    return next((choice for choice in others if meaning(choice) != meaning(right)), None)


def _braille(character: Character) -> list[Question]:
    if character.kind != "braille pattern" or "dots-" not in character.name:
        return []
    dots = character.name.rpartition("-")[2]
    which = [Question(f"Is dot {dot} raised?", "yes" if dot in dots else "no") for dot in "12345678"]
    return [*which, Question("How many dots are there?", NUMBERS[len(dots)])]


_ARMS: dict[str, tuple[str, ...]] = {arm: (arm,) for arm in ("up", "down", "left", "right")}
_ARMS |= {"vertical": ("up", "down"), "horizontal": ("left", "right")}
_WEIGHTS = {"light": "light", "single": "light", "heavy": "heavy", "double": "double"}


def _box_drawing(character: Character) -> list[Question]:
    words = character.name.split()
    if words[:2] != ["box", "drawings"] or not all(
        word in _ARMS or word in _WEIGHTS or word == "and" for word in words[2:]
    ):
        return []
    # In "down light and right heavy" each clause has its weight; in "heavy down and right" the first serves both.
    clauses = re.split(r" and ", " ".join(words[2:]))
    weights = [[_WEIGHTS[word] for word in clause.split() if word in _WEIGHTS] for clause in clauses]
    arms = dict.fromkeys(("up", "down", "left", "right"), "none")
    for clause, weight in zip(clauses, weights, strict=True):
        for word in clause.split():
            for arm in _ARMS.get(word, ()):
                arms[arm] = (weight or weights[0])[0]
    return [Question(f"Which line leads {arm}?", weight) for arm, weight in arms.items()]


_COMPASS = {"leftwards": "left", "rightwards": "right", "upwards": "up", "downwards": "down"}
_COMPASS |= {
    "north west": "up left",
    "north east": "up right",
    "south east": "down right",
    "south west": "down left",
}
_COMPASS |= {"left right": "left and right", "up down": "up and down"}


def _arrow(character: Character) -> list[Question]:
    # One arrow, one direction: not "leftwards arrow over rightwards arrow".
    if character.kind != "arrow" or re.search(r"wards .*wards| and | crossing ", character.name):
        return []
    found = [answer for words, answer in _COMPASS.items() if character.name.startswith(words + " ")]
    return [Question("Where does the arrow point?", found[0])] if found else []


def _letter_case(character: Character) -> list[Question]:
    if character.kind not in ("capital letter", "small letter") or character.script is None:
        return []
    return [Question("Is the letter capital or small?", character.kind)]


def _domino(character: Character) -> list[Question]:
    found = re.fullmatch(r"domino tile (horizontal|vertical)-(\d\d)-(\d\d)", character.name)
    if not found:
        return []
    first, second = int(found[2]), int(found[3])
    ends = ("left", "right") if found[1] == "horizontal" else ("upper", "lower")
    return [
        Question("How many dots are there?", NUMBERS[first + second]),
        Question(f"How many dots are in the {ends[0]} half?", NUMBERS[first]),
        Question(f"How many dots are in the {ends[1]} half?", NUMBERS[second]),
    ]


def _playing_card(character: Character) -> list[Question]:
    found = re.fullmatch(r"playing card (\w+) of (\w+)", character.name)
    return [Question("Which suit is it?", found[2]), Question("Which rank is it?", found[1])] if found else []


def _chess_piece(character: Character) -> list[Question]:
    found = re.fullmatch(r"(white|black) chess (\w+)", character.name)
    return [Question("Which piece is it?", found[2]), Question("Which colour is it?", found[1])] if found else []
