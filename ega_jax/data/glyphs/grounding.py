"""A sheet of glyphs and a name or a place to the glyph that stands there."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from ega_jax.data.glyphs.catalog import Catalog, Glyph, Part
from ega_jax.data.glyphs.config import GlyphsConfig
from ega_jax.data.glyphs.retrieval import codepoint, common_characters, near, picture_gallery
from ega_jax.data.glyphs.rows import Candidate, Item, Pair, Subset, assemble, image_query, spread
from ega_jax.data.records import IMAGE_TOKEN, Distribution

_PLACES = {
    2: ("top left", "top right", "bottom left", "bottom right"),
    3: ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"),
}


def grounding(catalog: Catalog, config: GlyphsConfig, sheets: dict[str, list[str]]) -> list[Subset]:
    """The grounding subsets.

    Args:
      catalog: all glyphs.
      config: how many rows.
      sheets: filled in here: path of each sheet to the paths of its glyphs, row-major.
    """
    common = common_characters(catalog)

    def subset(
        name: str,
        by_name: bool,
        side: int,
        description: str,
        distribution: Distribution = "in",
        test_part: Part = "test",
    ) -> Subset:
        def pairs(part: Part, rng: random.Random, count: int) -> list[Pair]:
            named = [glyph for glyph in catalog.part(part) if not by_name or glyph.character.codepoint in common]
            # The very pictures that retrieval by name has, as long as both have as many rows.
            glyphs = spread(rng, named, codepoint, count)
            return _pairs(glyphs, rng, count, by_name, side, f"images/sheets/{name}/{part}", sheets)

        def gallery(part: Part, pairs: Sequence[Pair]) -> list[Candidate]:
            candidates = picture_gallery(catalog, part, pairs, config.seed)
            return [Candidate(_crop(item.path), meaning) for item, meaning in candidates]

        return assemble(
            name, "grounding", description, config, pairs, gallery,
            distribution=distribution, test_part=test_part, pool_size=config.pool_size,
        )  # fmt: skip

    return [
        subset("SheetByName", True, 2, "the named glyph of four; negatives: its neighbour"),
        subset("SheetByPlace", False, 2, "the glyph of four at a place; negatives: its neighbour"),
        subset("SheetByName_ThreeByThree", True, 3, "the named glyph of nine; training has sheets of four", "out"),
        subset("SheetByName_UnseenFaces", True, 2, "SheetByName in unseen faces", "out", "unseen_faces"),
        subset("SheetByPlace_UnseenScripts", False, 2, "SheetByPlace in unseen scripts", "out", "unseen_scripts"),
    ]


def _pairs(
    glyphs: Sequence[Glyph],
    rng: random.Random,
    count: int,
    by_name: bool,
    side: int,
    path: str,
    sheets: dict[str, list[str]],
) -> list[Pair]:
    relatives: dict[str, list[Glyph]] = defaultdict(list)
    for glyph in glyphs:
        relatives[near(glyph)].append(glyph)
    pairs: list[Pair] = []
    while len(pairs) < count:
        sheet = f"{path}/{len(pairs) // side**2:05d}.png"
        cells = _cells(glyphs, relatives, rng, side**2)
        sheets[sheet] = [cell.path for cell in cells]
        for place, gold in enumerate(cells):
            question = (
                f"Select the glyph named {gold.character.name}."
                if by_name
                else f"Select the glyph at the {_PLACES[side][place]}."
            )
            others = tuple(_crop(cell.path) for cell in cells if cell is not gold)
            pairs.append(
                Pair(
                    image_query(question, sheet),
                    Candidate(_crop(gold.path), gold.twins),
                    others,
                    others[place % len(others)],
                )
            )
    return pairs[:count]


def _cells(glyphs: Sequence[Glyph], relatives: dict[str, list[Glyph]], rng: random.Random, count: int) -> list[Glyph]:
    """Glyphs that all differ in looks, half of them close relatives of the first."""
    cells = [rng.choice(glyphs)]
    family = relatives[near(cells[0])]
    tries = 0
    while len(cells) < count:
        tries += 1
        glyph = rng.choice(family if len(cells) < count // 2 and tries < 20 else glyphs)
        if all(glyph.twins != cell.twins for cell in cells):
            cells.append(glyph)
    rng.shuffle(cells)
    return cells


def _crop(path: str) -> Item:
    return Item(f"{IMAGE_TOKEN}\nRepresent the given cropped image.", path)
