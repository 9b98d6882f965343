"""The typefaces that matplotlib ships and Glyphs draws with."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Face:
    """One typeface: a family in one weight and one slant.

    Attributes:
      family: as printed in a specimen, e.g. "DejaVu Sans Mono".
      bold: heavy weight.
      italic: slanted, whether the font calls it italic or oblique.
      file: name of the font file in matplotlib's font directory.
      held_out: no training image is drawn with it.
    """

    family: str
    bold: bool
    italic: bool
    file: str
    held_out: bool = False

    @functools.cached_property
    def style(self) -> str:
        """ "regular", "bold", "italic" or "bold italic"."""
        return " ".join(word for word, on in (("bold", self.bold), ("italic", self.italic)) if on) or "regular"

    @functools.cached_property
    def name(self) -> str:
        """Family and style, e.g. "dejavu sans bold italic": the label of this face."""
        return f"{self.family.lower()} {self.style}"

    @property
    def path(self) -> Path:
        """The font file. Needs matplotlib."""
        import matplotlib

        return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / self.file

    def codepoints(self) -> list[int]:
        """The code points that the font itself has a glyph for, ascending, read from its cmap table."""
        from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

        with TTFont(self.path, lazy=True) as font:
            return sorted(point for point, glyph in font.getBestCmap().items() if glyph != ".notdef")


def _family(family: str, stem: str, suffixes: tuple[str, str, str, str], held_out_style: str | None) -> list[Face]:
    styles = ((False, False), (True, False), (False, True), (True, True))
    faces = [Face(family, bold, italic, stem + end) for (bold, italic), end in zip(styles, suffixes, strict=True)]
    return [dataclasses.replace(face, held_out=face.style == held_out_style) for face in faces]


_DEJAVU_SANS = (".ttf", "-Bold.ttf", "-Oblique.ttf", "-BoldOblique.ttf")
# An allow-list: the same directory holds LastResortHE, whose 138,000 glyphs are placeholder boxes, and symbol
# fonts that draw other characters than their code points say. Each held-out face has a family and a style that
# training sees, but never together.
FACES: tuple[Face, ...] = (
    *_family("DejaVu Sans", "DejaVuSans", _DEJAVU_SANS, None),
    *_family("DejaVu Sans Mono", "DejaVuSansMono", _DEJAVU_SANS, "bold"),
    *_family("DejaVu Serif", "DejaVuSerif", (".ttf", "-Bold.ttf", "-Italic.ttf", "-BoldItalic.ttf"), "italic"),
    *_family("STIX General", "STIXGeneral", (".ttf", "Bol.ttf", "Italic.ttf", "BolIta.ttf"), "bold italic"),
)
