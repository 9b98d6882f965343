"""Directories that are there whole or not at all, and how big files in them may be."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ega_jax.errors import BadInputError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yields an empty directory that becomes `target` when the block ends, and is removed if it fails.

    A process that is killed leaves a hidden directory beside `target`, which the next one clears away.

    Raises:
      BadInputError: `target` is there already and is not an empty directory.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInputError(f"{target}: is there already; give the name of a new directory")
    partial = target.absolute().with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def size_in_bytes(text: str) -> int:
    """The number of bytes that "5GB", "512 MiB" or "1000" stand for.

    Raises:
      BadInputError: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)?", text.strip().upper())
    size = float(found[1]) * _UNITS[found[2] or ""] if found else 0
    if size < 1:
        raise BadInputError(f"{text!r} is not a size; write one such as 5GB or 512MiB")
    return int(size)
