"""A sheet of glyphs, and a name or a place, to the glyph that stands there."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from ega_jax.data.glyphs.catalog import Catalog, Glyph, Part
from ega_jax.data.glyphs.config import GlyphsConfig
from ega_jax.data.glyphs.galleries import family, picture_gallery
from ega_jax.data.glyphs.retrieval import codepoint
from ega_jax.data.glyphs.rows import Candidate, Item, Pair, Subset, assemble, image_query, spread
from ega_jax.data.records import IMAGE_TOKEN, Distribution

_PLACES = {
    2: ("top left", "top right", "bottom left", "bottom right"),
    3: ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"),
}
_LEAST_GLYPHS = 100  # enough for a sheet of glyphs that all differ, however few rows are asked for


def grounding(catalog: Catalog, config: GlyphsConfig, sheets: dict[str, list[str]]) -> list[Subset]:
    """The grounding subsets.

    Args:
      catalog: all glyphs.
      config: how many rows.
      sheets: filled in here: path of each sheet to the paths of its glyphs, row-major.
    """

    def subset(
        name: str, by: str, side: int, description: str, distribution: Distribution = "in", test_part: Part = "test"
    ) -> Subset:
        def choose(part: Part) -> list[Glyph]:
            glyphs = catalog.part(part)
            return [glyph for glyph in glyphs if by == "place" or codepoint(glyph) in catalog.common]

        def pairs(part: Part, rng: random.Random, count: int) -> list[Pair]:
            glyphs = spread(rng, choose(part), codepoint, max(count, _LEAST_GLYPHS))
            families = defaultdict(list)
            for glyph in glyphs:
                families[family(glyph)].append(glyph)
            found: list[Pair] = []
            while len(found) < count:
                path = f"images/sheets/{name}/{part}/{len(found) // side**2:05d}.png"
                cells = _lay_out(glyphs, families, rng, side**2)
                sheets[path] = [cell.path for cell in cells]
                found += _pairs(path, cells, by, _PLACES[side])
            return found[:count]

        def gallery(part: Part, pairs: Sequence[Pair]) -> list[Candidate]:
            candidates = picture_gallery(choose(part), pairs)
            return [Candidate(_crop(item.path), meaning) for item, meaning in candidates]

        return assemble(
            name,
            "grounding",
            description,
            config,
            pairs,
            gallery,
            distribution=distribution,
            test_part=test_part,
            pool_size=config.pool_size,
        )

    three = "the named glyph of nine; training has sheets of four"
    return [
        subset("SheetByName", "name", 2, "the named glyph of four; negatives: its neighbour"),
        subset("SheetByPlace", "place", 2, "the glyph of four at a place; negatives: its neighbour"),
        subset("SheetByName_ThreeByThree", "name", 3, three, "out"),
        subset("SheetByName_UnseenFaces", "name", 2, "SheetByName in unseen faces", "out", "unseen_faces"),
        subset("SheetByPlace_UnseenScripts", "place", 2, "SheetByPlace in unseen scripts", "out", "unseen_scripts"),
    ]


def _lay_out(glyphs: Sequence[Glyph], families: dict[str, list[Glyph]], rng: random.Random, count: int) -> list[Glyph]:
    """Glyphs that all differ in looks; up to half of them are close relatives."""
    first = rng.choice(glyphs)
    relatives = families[family(first)]
    chosen = {first.twins: first}
    for glyph in rng.sample(relatives, len(relatives))[: count // 2]:
        chosen.setdefault(glyph.twins, glyph)
    # Far more than needed: look-alikes are few.
    for glyph in rng.sample(glyphs, 5 * count):
        if len(chosen) < count:
            chosen.setdefault(glyph.twins, glyph)
    return rng.sample(list(chosen.values()), count)


def _pairs(sheet: str, cells: Sequence[Glyph], by: str, places: Sequence[str]) -> list[Pair]:
    """One row for each glyph of the sheet; the others on it are what it is to be told from."""
    pairs: list[Pair] = []
    for gold, place in zip(cells, places, strict=True):
        wanted = f"named: {gold.character.name}" if by == "name" else f"at the {place}."
        others = tuple(_crop(cell.path) for cell in cells if cell is not gold)
        query = image_query(f"Select the glyph {wanted}", sheet)
        pairs.append(Pair(query, Candidate(_crop(gold.path), gold.twins), others, others[len(pairs) % len(others)]))
    return pairs


def _crop(path: str) -> Item:
    return Item(f"{IMAGE_TOKEN}\nRepresent the given cropped image.", path)
