"""Questions that a character's own name answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import NamedTuple

from ega_jax.data.glyphs.characters import Character

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


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


Ask = Callable[[Character], list[Question]]
"""The questions of one kind that a character answers; none where they make no sense."""


def braille(character: Character) -> list[Question]:
    """Each dot by its number, and how many there are."""
    if character.kind != "braille pattern" or "dots-" not in character.name:
        return []
    dots = character.name.rpartition("-")[2]
    which = [Question(f"Is dot {dot} raised?", "yes" if dot in dots else "no") for dot in "12345678"]
    return [*which, Question("How many dots are there?", NUMBERS[len(dots)])]


_ARMS: dict[str, tuple[str, ...]] = {arm: (arm,) for arm in ("up", "down", "left", "right")}
_ARMS |= {"vertical": ("up", "down"), "horizontal": ("left", "right")}
_WEIGHTS = {"light": "light", "single": "light", "heavy": "heavy", "double": "double"}


def box_drawing(character: Character) -> list[Question]:
    """The weight of the line that leads each way; no dashes, arcs or diagonals."""
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


def arrow(character: Character) -> list[Question]:
    """Where a single arrow points."""
    # One arrow, one direction: not "leftwards arrow over rightwards arrow".
    if character.kind != "arrow" or re.search(r"wards .*wards| and | crossing ", character.name):
        return []
    found = [answer for words, answer in _COMPASS.items() if character.name.startswith(words + " ")]
    return [Question("Where does the arrow point?", found[0])] if found else []


def letter_case(character: Character) -> list[Question]:
    """Capital or small."""
    if character.kind not in ("capital letter", "small letter") or character.script is None:
        return []
    return [Question("Is the letter capital or small?", character.kind)]


def domino(character: Character) -> list[Question]:
    """The dots of each half, and of both."""
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


def playing_card(character: Character) -> list[Question]:
    """Suit and rank."""
    found = re.fullmatch(r"playing card (\w+) of (\w+)", character.name)
    return [Question("Which suit is it?", found[2]), Question("Which rank is it?", found[1])] if found else []


def chess_piece(character: Character) -> list[Question]:
    """Piece and colour."""
    found = re.fullmatch(r"(white|black) chess (\w+)", character.name)
    return [Question("Which piece is it?", found[2]), Question("Which colour is it?", found[1])] if found else []
