"""The settings of Glyphs."""

from __future__ import annotations

import dataclasses

from ega_jax.errors import BadInputError

_LEAST = {"seed": 0, "train_rows": 1, "validation_rows": 0, "test_rows": 1, "pool_size": 2, "image_size": 16}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GlyphsConfig:
    """How large Glyphs is. Equal settings, fonts and library versions give equal files.

    Attributes:
      seed: decides which rows are held out, which are drawn, and how sheets are laid out.
      train_rows: most training rows a subset; one with fewer distinct rows has fewer, none is repeated.
      validation_rows: most validation rows an in-distribution subset.
      test_rows: most test rows a subset.
      pool_size: most candidates a test row in retrieval and grounding. Classification and question answering
        have their natural pools: every label or answer of the subset.
      image_size: side of a glyph's picture in pixels; a sheet of 2 by 2 glyphs is twice as wide.
    """

    seed: int = 0
    train_rows: int = 3000
    validation_rows: int = 100
    test_rows: int = 300
    pool_size: int = 500
    image_size: int = 32

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise BadInputError(f"GlyphsConfig.{name} must be an integer of at least {least}, got {value!r}")
