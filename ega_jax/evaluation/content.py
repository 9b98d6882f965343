"""Names of items by what is in them: the same text and the same bytes of pictures, wherever the files lie."""

from __future__ import annotations

import concurrent.futures
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ega_jax.data.images import ImageError, StoredImage, identity
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ega_jax.data.records import EvalSubset, Side

_THREADS = 8  # hashing waits for the disk, and leaves Python while it computes


def content_keys(sides: Sequence[Side]) -> list[bytes]:
    """The SHA-256 (32 bytes) of each side: of its text and of its pictures' encoded bytes, in order.

    Raises:
      BadInputError: a picture cannot be read; names it.
    """
    sources = {identity(source): source for side in sides for source in side.images}
    if sources:
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            pictures = dict(zip(sources, pool.map(_picture, sources.values()), strict=True))
    keys = []
    for side in sides:
        text = side.text.encode()
        digest = hashlib.sha256(f"{len(text)} {len(side.images)}\n".encode() + text)
        for source in side.images:
            digest.update(pictures[identity(source)])
        keys.append(digest.digest())
    return keys


def subset_fingerprint(subset: EvalSubset) -> str:
    """32 hexadecimal digits that name the questions of a subset: its queries in order, the right answer of each and the
    set of the others, whose order does not matter.

    Raises:
      BadInputError: a picture cannot be read.
    """
    targets = content_keys(subset.targets)
    digest = hashlib.sha256()
    for query, pool in zip(content_keys(subset.queries), subset.candidates, strict=True):
        gold, *others = (targets[place] for place in pool)
        digest.update(query + gold + hashlib.sha256(b"".join(sorted(set(others) - {gold}))).digest())
    return digest.hexdigest()[:32]


def _picture(source: Path | StoredImage | Image.Image) -> bytes:
    if isinstance(source, Image.Image):
        palette = source.getpalette() if source.mode == "P" else None
        facts = f"{source.mode} {source.size} {palette} {source.info.get('transparency')!r}\n"
        return hashlib.sha256(facts.encode() + source.tobytes()).digest()
    try:
        content = source.read_bytes()
    except (OSError, ImageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInputError(f"{source}: cannot be read: {reason}") from None
    return hashlib.sha256(content).digest()
