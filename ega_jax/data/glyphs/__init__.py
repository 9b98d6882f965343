"""Glyphs: the dataset that needs no download.

matplotlib ships the DejaVu and STIX typefaces, and Unicode gives every character an official name and category.
Glyphs draws the characters and asks about them in MMEB's four meta-tasks and in MMEB's record format
(arXiv 2410.05160), with test sets in and out of the training distribution:

    from ega_jax.data.glyphs import prepare
    directory = prepare(Path("data/glyphs"))
"""

from ega_jax.data.glyphs.cache import prepare
from ega_jax.data.glyphs.config import GlyphsConfig

__all__ = ["GlyphsConfig", "prepare"]
