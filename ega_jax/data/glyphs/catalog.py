"""Every character in every face, drawn once, and divided between training and the tests."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import random
from collections.abc import Iterable
from typing import Literal

from ega_jax.data.glyphs.characters import Character, character
from ega_jax.data.glyphs.faces import FACES, Face
from ega_jax.data.glyphs.render import draw

Part = Literal["train", "validation", "test", "unseen_faces", "unseen_scripts", "unseen_symbols"]

_VALIDATION, _TEST = 0.05, 0.15
# Of a character, in training: more would add files to write, and little to learn.
_TRAINING_PICTURES = 6
# Of a character, before that: fewer, and it is too rare to be asked for by name.
_COMMON_PICTURES = 8
# Few pictures show these, so much alike from face to face: a held-out one is a character new to the model.
_SPLIT_BY_CHARACTER = frozenset({"braille pattern", "box drawing", "arrow"})


@dataclasses.dataclass(frozen=True, slots=True)
class Glyph:
    """One character as one face draws it.

    Attributes:
      character: what it is.
      face: what draws it.
      path: the picture, relative to the data directory. Glyphs that look the same have the same path.
      part: the only part of the data in which this picture may stand.
      twins: a number that characters share when some face draws them with the same picture ("A" in Latin, Greek
        and Cyrillic); neither is ever a wrong answer for the other.
    """

    character: Character
    face: Face
    path: str
    part: Part
    twins: int


@dataclasses.dataclass(frozen=True)
class Catalog:
    """All glyphs, and the pixels behind their paths.

    Attributes:
      glyphs: in a shuffled order. Every subset takes its glyphs in this order, so that subsets share pictures: the
        fewer there are, the fewer files to write and images to encode.
      common: code points of the characters that most faces have, and that are not held out as a whole.
      pixels: path to `image_size**2` bytes, row-major, 0 ink and 255 paper.
    """

    glyphs: tuple[Glyph, ...]
    common: frozenset[int]
    pixels: dict[str, bytes]

    def part(self, part: Part) -> list[Glyph]:
        """The glyphs of one part, in order."""
        return self._parts.get(part, [])

    @functools.cached_property
    def ambiguous(self) -> frozenset[str]:
        """Paths of the pictures that show several characters."""
        shown = {(glyph.path, glyph.character.codepoint) for glyph in self.glyphs}
        counts = collections.Counter(path for path, _ in shown)
        return frozenset(path for path, count in counts.items() if count > 1)

    @functools.cached_property
    def twins(self) -> dict[int, int]:
        """`Glyph.twins` by code point."""
        return {glyph.character.codepoint: glyph.twins for glyph in self.glyphs}

    @functools.cached_property
    def _parts(self) -> dict[str, list[Glyph]]:
        parts: dict[str, list[Glyph]] = collections.defaultdict(list)
        for glyph in self.glyphs:
            parts[glyph.part].append(glyph)
        return dict(parts)


def build_catalog(image_size: int, seed: int) -> Catalog:
    """Draws every character of every face.

    Args:
      image_size: side of a picture in pixels.
      seed: decides which pictures are held out.
    """
    drawn: list[tuple[Character, Face, bytes]] = []
    for face in FACES:
        for codepoint in face.codepoints():
            if (found := character(codepoint)) and (pixels := draw(face, chr(codepoint), image_size)):
                drawn.append((found, face, pixels))
    shown_by: dict[bytes, list[tuple[Character, Face]]] = collections.defaultdict(list)
    for found, face, pixels in drawn:
        shown_by[pixels].append((found, face))
    twins = _twins([{found.codepoint for found, _ in shown} for shown in shown_by.values()])
    paths = {pixels: _path(*shown[0]) for pixels, shown in shown_by.items()}
    parts = {pixels: _part(shown, seed) for pixels, shown in shown_by.items()}
    glyphs = [
        Glyph(found, face, paths[pixels], part, twins[found.codepoint])
        for found, face, pixels in drawn
        if (part := parts[pixels]) is not None and face.held_out == (part == "unseen_faces")
    ]
    random.Random(f"{seed}/catalog").shuffle(glyphs)
    return Catalog(tuple(_thin(glyphs)), _common(glyphs), {path: pixels for pixels, path in paths.items()})


def _thin(glyphs: list[Glyph]) -> list[Glyph]:
    """Leaves each character its first few training pictures."""
    by_path: dict[str, list[Glyph]] = collections.defaultdict(list)
    for glyph in glyphs:
        by_path[glyph.path].append(glyph)
    count: collections.Counter[int] = collections.Counter()
    kept = set()
    for path, same in by_path.items():
        points = {glyph.character.codepoint for glyph in same}
        if same[0].part != "train" or same[0].character.kind in _SPLIT_BY_CHARACTER:
            kept.add(path)
        elif any(count[point] < _TRAINING_PICTURES for point in points):
            kept.add(path)
            count.update(points)
    return [glyph for glyph in glyphs if glyph.path in kept]


def _common(glyphs: list[Glyph]) -> frozenset[int]:
    shown = {(glyph.character, glyph.path) for glyph in glyphs if not glyph.face.held_out}
    counts = collections.Counter(
        found.codepoint for found, _ in shown if found.kind not in _SPLIT_BY_CHARACTER and not found.held_out
    )
    return frozenset(codepoint for codepoint, count in counts.items() if count >= _COMMON_PICTURES)


def _path(shown: Character, face: Face) -> str:
    return f"images/{face.name.replace(' ', '_')}/{shown.codepoint:04x}.png"


def _part(shown: list[tuple[Character, Face]], seed: int) -> Part | None:
    """Where a picture may stand, given all that it shows: with one foot in training it counts as seen."""
    characters = [found for found, _ in shown]
    held_out = {found.held_out for found in characters}
    faces_held_out = all(face.held_out for _, face in shown)
    if None not in held_out:
        # Held out twice over is of no use: a drop of score could come from either.
        return None if faces_held_out or len(held_out) > 1 else held_out.pop()  # type: ignore[return-value]
    if len(held_out) > 1:
        return None
    if faces_held_out:
        return "unseen_faces"
    first = min(characters, key=lambda found: found.codepoint)
    drawing = "" if first.kind in _SPLIT_BY_CHARACTER else shown[0][1].name
    digest = hashlib.blake2b(f"{seed}/{first.codepoint}/{drawing}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest) / 2**64
    if position < _TEST:
        return "test"
    return "validation" if position < _TEST + _VALIDATION else "train"


def _twins(groups: Iterable[set[int]]) -> dict[int, int]:
    """Joins groups that share a member; each member is given the least one of its group (union-find)."""
    parent: dict[int, int] = {}

    def root(item: int) -> int:
        while parent.setdefault(item, item) != item:
            parent[item] = item = parent[parent[item]]
        return item

    for group in groups:
        least = min(root(item) for item in group)
        for item in group:
            parent[root(item)] = least
    return {item: root(item) for item in list(parent)}
