"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
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


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that no space is left. Libraries in other languages say so in words."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(seen) or "Disk quota exceeded" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
