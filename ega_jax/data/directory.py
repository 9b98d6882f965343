"""Where data is: a directory in MMEB's schema, or the embedded dataset by its name."""

from __future__ import annotations

import os
from pathlib import Path

from ega_jax.errors import BadInputError

GLYPHS = "glyphs"


def data_directory(name: str, seed: int = 0) -> Path:
    """The directory that `name` stands for; "glyphs" is rendered on first use and cached.

    Args:
      name: a path, or "glyphs".
      seed: of the embedded dataset.

    Raises:
      BadInputError: there is no such directory.
    """
    if name == GLYPHS:
        from ega_jax.data import glyphs  # draws: not for those who only ask where data is

        return glyphs.prepare(cache_directory() / f"glyphs-{seed}", seed=seed)
    path = Path(name).expanduser()
    if not path.is_dir():
        raise BadInputError(
            f"{path}: no such directory; give one in MMEB's schema, or {GLYPHS!r} for the embedded data"
        )
    return path


def cache_directory() -> Path:
    """`$EGA_JAX_CACHE`, or `ega_jax` in the user's cache directory."""
    if chosen := os.environ.get("EGA_JAX_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ega_jax"
