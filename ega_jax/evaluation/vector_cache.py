"""Vectors kept on disk by what was embedded and by what embedded it.

    DIR/<model>/model.json                  the facts that <model> is a hash of: weights, recipe, resolution, ...
    DIR/<model>/vectors-<keys>.safetensors  keys (n, 32) uint8 and vectors (n, D) float32; <keys> is a hash of the keys

A shard appears whole or not at all, and is never changed: a process that is killed loses the shard that it was about to
write, and several may write into one directory. Other weights or another recipe have another <model>, so nothing stale
can be read; what is no longer wanted can be deleted by directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ega_jax.errors import BadInputError
from ega_jax.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Bool, Float32

VERSION = 1
"""Part of every <model>: raised when shards come to mean something else."""

_KEY_BYTES = 32
_ABANDONED_SECONDS = 3600.0  # a partial file of that age has no writer any more


class VectorCache:
    """The vectors of one model.

    Attributes:
      directory: DIR/<model>.
      width: D.
      damaged: shards that could not be read, or whose bytes have changed; their items are embedded again.
    """

    def __init__(self, root: Path | str, facts: Mapping[str, str], width: int) -> None:
        """Opens what is there.

        Args:
          root: DIR; made where it is missing.
          facts: all that decides a vector besides the item, by name; see `Embedder.facts`.
          width: D, of the model's whole vectors.

        Raises:
          BadInputError: the directory cannot be written.
        """
        document = json.dumps({"version": str(VERSION), "width": str(width), **facts}, indent=2, sort_keys=True) + "\n"
        self.directory = Path(root) / hashlib.sha256(document.encode()).hexdigest()[:16]
        self.width = width
        self.damaged: list[Path] = []
        self._places: dict[bytes, tuple[Path, int]] = {}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(self.directory / "model.json", document)
        except OSError as error:
            raise BadInputError(f"{self.directory}: vectors cannot be kept there ({error.strerror})") from error
        for temporary in self.directory.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - temporary.stat().st_mtime > _ABANDONED_SECONDS:
                    temporary.unlink()
        for shard in sorted(self.directory.glob("vectors-*.safetensors")):
            try:
                with safe_open(shard, "numpy") as file:
                    keys = file.get_tensor("keys")
                self._enter(shard, [row.tobytes() for row in keys])
            except (SafetensorError, OSError, KeyError):
                self.damaged.append(shard)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def get(self, keys: Sequence[bytes]) -> tuple[Bool[np.ndarray, " n"], Float32[np.ndarray, "n D"]]:
        """Which of n items are kept, and their vectors; rows of the others are zero."""
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for place, key in enumerate(keys):
            if key in self._places:
                shard, row = self._places[key]
                wanted.setdefault(shard, []).append((place, row))
        found = np.zeros(len(keys), bool)
        vectors = np.zeros((len(keys), self.width), np.float32)
        for shard, pairs in wanted.items():
            rows = self._read(shard)
            if rows is None:
                continue
            places, sources = np.asarray(pairs).T
            vectors[places], found[places] = rows[sources], True
        return found, vectors

    def add(self, keys: Sequence[bytes], vectors: Float32[np.ndarray, "n D"]) -> None:
        """Keeps vectors, in one shard that is on disk when this returns.

        Args:
          keys: 32 bytes an item.
          vectors: float32 rows.
        """
        if not keys:
            return
        vectors = np.ascontiguousarray(vectors, np.float32)
        joined = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), _KEY_BYTES)
        shard = self.directory / f"vectors-{hashlib.sha256(joined.data).hexdigest()[:16]}.safetensors"
        tensors, facts = {"keys": joined, "vectors": vectors}, {"sha256": _digest(joined, vectors)}
        # Not save_file, whose files only their owner may read.
        write_whole(shard, save(tensors, facts), durable=True)
        self._enter(shard, keys)

    def _enter(self, shard: Path, keys: Sequence[bytes]) -> None:
        for row, key in enumerate(keys):
            self._places[key] = (shard, row)

    def _read(self, shard: Path) -> Float32[np.ndarray, "n D"] | None:
        try:
            with safe_open(shard, "numpy") as file:
                keys, vectors = file.get_tensor("keys"), file.get_tensor("vectors")
                whole = (file.metadata() or {}).get("sha256") == _digest(keys, vectors)
                if whole and vectors.shape == (len(keys), self.width):
                    return vectors
        except (SafetensorError, OSError, KeyError):
            pass
        self.damaged.append(shard)
        self._places = {key: place for key, place in self._places.items() if place[0] != shard}
        return None


def _digest(keys: np.ndarray, vectors: np.ndarray) -> str:
    digest = hashlib.sha256(f"{keys.shape} {vectors.shape} {vectors.dtype}".encode())
    digest.update(keys.data)
    digest.update(vectors.data)
    return digest.hexdigest()
