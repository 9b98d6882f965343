"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, content: str | bytes | Callable[[Path], object], *, durable: bool = False) -> None:
    """Writes a file under another name and then renames it: who stops in between leaves the old one, or none.

    Args:
      path: of the file.
      content: text (UTF-8), bytes, or what writes the file it is given.
      durable: whether the file is to survive a loss of power once this has returned.
    """
    # Not the process: two hosts that share a directory may have equal ones.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
