"""Writes Glyphs once and finds it again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ega_jax.data.glyphs.config import GlyphsConfig
from ega_jax.data.glyphs.faces import FACES
from ega_jax.errors import BadInputError

MARKER = "glyphs.json"
"""Written last: what the directory was made from, and what it must hold to be whole."""

SUBSETS = (
    *("Script", "Kind", "Face", "Style"),
    *("Script_UnseenFaces", "Style_UnseenFaces", "Kind_UnseenScripts"),
    *("BaseLetter", "Diacritic", "Braille", "BoxDrawing", "Arrow"),
    *("LetterCase", "Diacritic_UnseenFaces", "Domino", "PlayingCard", "ChessPiece"),
    *("NameToGlyph", "GlyphToName", "FaceToFace", "Restyle"),
    *("NameToGlyph_UnseenFaces", "GlyphToName_UnseenFaces"),
    *("FaceToFace_UnseenScripts", "Restyle_UnseenScripts"),
    *("SheetByName", "SheetByPlace"),
    *("SheetByName_ThreeByThree", "SheetByName_UnseenFaces", "SheetByPlace_UnseenScripts"),
)
"""Every subset: also the names that `prepare` may replace."""


def prepare(directory: Path | str, seed: int = 0, **settings: int) -> Path:
    """Makes sure that a directory holds Glyphs, in MMEB's layout; draws it when it does not.

    The directory appears whole or not at all: it is written beside its place and then renamed. One that is there
    already is used as it is when it was made from the same settings, fonts and code and nothing is missing, and
    replaced otherwise. Several processes may prepare the same directory at once.

    Args:
      directory: where it shall be.
      seed: see `GlyphsConfig`.
      **settings: the other fields of `GlyphsConfig`.

    Returns:
      The directory.

    Raises:
      BadInputError: a setting is out of range, or the directory holds files that are not Glyphs' own.
    """
    config = GlyphsConfig(seed=seed, **settings)
    directory = Path(directory)
    fingerprint = _fingerprint(config)
    if _is_whole(directory, fingerprint):
        return directory
    _refuse_foreign_files(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.parent / f".{directory.name}.{os.getpid()}.{secrets.token_hex(4)}.partial"
    partial.mkdir()
    try:
        _build(partial, config, fingerprint)
        _move_into_place(partial, directory, fingerprint)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _build(directory: Path, config: GlyphsConfig, fingerprint: dict[str, Any]) -> None:
    from ega_jax.data.glyphs.catalog import build_catalog
    from ega_jax.data.glyphs.classification import classification
    from ega_jax.data.glyphs.grounding import grounding
    from ega_jax.data.glyphs.questions import question_answering
    from ega_jax.data.glyphs.retrieval import retrieval
    from ega_jax.data.glyphs.write import write

    catalog = build_catalog(config.image_size, config.seed)
    sheets: dict[str, list[str]] = {}
    subsets = [
        *classification(catalog, config),
        *question_answering(catalog, config),
        *retrieval(catalog, config),
        *grounding(catalog, config, sheets),
    ]
    write(directory, catalog, subsets, sheets, config.image_size)
    marker = {"fingerprint": fingerprint, "contents": _contents(directory)}
    (directory / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _fingerprint(config: GlyphsConfig) -> dict[str, Any]:
    """All that the files depend on, this package's own source included."""
    from PIL import Image, features

    source = sorted(Path(__file__).parent.glob("*.py"))
    return {
        "settings": dataclasses.asdict(config),
        "fonts": _digest(face.path for face in FACES),
        "source": _digest(source),
        "unicode": unicodedata.unidata_version,
        "pillow": Image.__version__,
        "freetype": features.version("freetype2"),
    }


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _contents(directory: Path) -> dict[str, list[int]]:
    """Number of files and of bytes in each folder, the marker apart."""
    found = {}
    for folder, _, names in os.walk(directory):
        sizes = [os.stat(os.path.join(folder, name)).st_size for name in names if name != MARKER]
        found[Path(folder).relative_to(directory).as_posix()] = [len(sizes), sum(sizes)]
    return dict(sorted(found.items()))


def _is_whole(directory: Path, fingerprint: dict[str, Any]) -> bool:
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        return marker["fingerprint"] == fingerprint and marker["contents"] == _contents(directory)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _refuse_foreign_files(directory: Path) -> None:
    """Nothing that a user put there is ever replaced."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise BadInputError(f"{directory} is a file: name a new or empty directory for Glyphs")
    own = {MARKER, "images", "subsets.json", *SUBSETS}
    foreign = [entry.name for entry in directory.iterdir() if entry.name not in own]
    if foreign:
        raise BadInputError(
            f"{directory / min(foreign)} is not a file of Glyphs: name a new or empty directory for Glyphs"
        )


def _move_into_place(partial: Path, directory: Path, fingerprint: dict[str, Any]) -> None:
    """Renames, after moving an outdated directory out of the way; another process may be doing the same."""
    for _ in range(10):
        try:
            partial.rename(directory)
            return
        except OSError:
            if not directory.is_dir():
                raise
        if _is_whole(directory, fingerprint):
            return  # another process was faster
        outdated = partial.with_suffix(f".{secrets.token_hex(4)}.outdated")
        with contextlib.suppress(FileNotFoundError):
            directory.rename(outdated)
        shutil.rmtree(outdated, ignore_errors=True)
    raise BadInputError(f"{directory} is written by other processes with other settings: give each its own directory")
