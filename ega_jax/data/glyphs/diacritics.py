"""Questions about a letter with a diacritic: which letter is under it, and which mark it is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable

from ega_jax.data.glyphs.catalog import Catalog
from ega_jax.data.glyphs.characters import Character, lookup
from ega_jax.data.glyphs.facts import Ask, Question

# Names of one mark in different scripts, or on letters of different shape.
_SAME_MARKS = {"tonos": "acute", "oxia": "acute", "varia": "grave", "vrachy": "breve", "dialytika": "diaeresis"}
_SAME_MARKS |= {"comma below": "cedilla", "prosgegrammeni": "ypogegrammeni", "slash": "stroke"}
_LEAST_LETTERS = 8  # that a mark must stand on, to be asked for


def diacritic_questions(catalog: Catalog) -> tuple[Ask, Ask]:
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
