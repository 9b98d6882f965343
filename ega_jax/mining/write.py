"""Mined rows as a data directory in MMEB's schema, pictures and all, which training reads like any other."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ega_jax.data.image_files import ZippedImage
from ega_jax.data.images import StoredImage, identity
from ega_jax.errors import BadInputError
from ega_jax.files import write_whole

if TYPE_CHECKING:
    from ega_jax.data.records import EvalSubset, Side, SubsetInfo
    from ega_jax.mining.mine import Account, MinedRow

MINED = "mined.json"
"""In the directory: what decided; in each subset's: what was done."""
_TEXT = pa.large_string()
_TEXTS = pa.large_list(_TEXT)


class MinedDirectory:
    """Where mined data goes.

    Attributes:
      path: of the directory.
    """

    def __init__(self, path: Path, settings: dict[str, Any], subsets: Sequence[SubsetInfo]) -> None:
        """A new directory, or the one that the same mining was writing.

        Args:
          path: of the directory.
          settings: everything that decides what is mined.
          subsets: whose place in the tables is written down.

        Raises:
          BadInputError: it holds something else.
        """
        self.path = path
        content = json.dumps(settings, indent=2) + "\n"
        if (path / MINED).exists():
            if (path / MINED).read_text(encoding="utf-8") != content:
                raise BadInputError(f"{path} was mined otherwise (see {path / MINED}): choose another directory")
            return
        path.mkdir(parents=True, exist_ok=True)
        if any(file.name[0] != "." for file in path.iterdir()):
            raise BadInputError(f"{path} is not empty and holds no {MINED}: choose another directory")
        places = {info.name: {"meta_task": info.meta_task, "distribution": info.distribution} for info in subsets}
        write_whole(path / "subsets.json", json.dumps(places, indent=2))
        write_whole(path / MINED, content)

    def is_done(self, subset: str) -> bool:
        """Whether its training rows are there."""
        return self._file(subset, "original").exists()

    def account(self, subset: str) -> dict[str, Any]:
        """What was written down of a subset that is done."""
        return json.loads((self.path / subset / MINED).read_text(encoding="utf-8"))

    def write(self, subset: str, rows: Sequence[MinedRow], account: Account, shown: int) -> None:
        """Writes the training rows of a subset, and the account of it with a few rows to look at."""
        images = _Images(self.path)
        table = pa.table(
            {
                "qry": pa.array([row.record.query.text for row in rows], _TEXT),
                "qry_image_path": pa.array([images.place(row.record.query) for row in rows], _TEXT),
                "pos_text": pa.array([[side.text for side in row.record.positives] for row in rows], _TEXTS),
                "pos_image_path": pa.array([images.places(row.record.positives) for row in rows], _TEXTS),
                "neg_text": pa.array([[side.text for side in row.negatives] for row in rows], _TEXTS),
                "neg_image_path": pa.array([images.places(row.negatives) for row in rows], _TEXTS),
            }
        )
        step = max(len(rows) // shown, 1)
        told = {
            **dataclasses.asdict(account),
            "positive_similarity": [round(row.positive_similarity, 4) for row in rows],
            "negative_similarity": [round(value, 4) for row in rows for value in row.similarities],
            "shown": list(range(0, len(rows), step))[:shown],
            "shown_similarity": [list(row.similarities) for row in rows[::step]][:shown],
        }
        (self.path / subset).mkdir(exist_ok=True)
        write_whole(self.path / subset / MINED, json.dumps(told))
        self._write_table(subset, "original", table)

    def write_evaluation(self, subset: EvalSubset, split: str) -> None:
        """Writes the validation or test rows of a subset, so that the directory is whole."""
        images = _Images(self.path)
        pools = [[subset.targets[place] for place in row] for row in subset.candidates]
        table = pa.table(
            {
                "qry_text": pa.array([side.text for side in subset.queries], _TEXT),
                "qry_img_path": pa.array([images.place(side) for side in subset.queries], _TEXT),
                "tgt_text": pa.array([[side.text for side in pool] for pool in pools], _TEXTS),
                "tgt_img_path": pa.array([images.places(pool) for pool in pools], _TEXTS),
            }
        )
        (self.path / subset.info.name).mkdir(exist_ok=True)
        self._write_table(subset.info.name, split, table)

    def _file(self, subset: str, split: str) -> Path:
        return self.path / subset / f"{split}-00000-of-00001.parquet"

    def _write_table(self, subset: str, split: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_whole(self._file(subset, split), sink.getvalue().to_pybytes())


class _Images:
    """Puts pictures into a directory: linked where the file system can, else copied."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._placed: dict[str, str] = {}

    def places(self, sides: Sequence[Side]) -> list[str]:
        return [self.place(side) for side in sides]

    def place(self, side: Side) -> str:
        """The path of a side's picture in the directory; "" where it has none."""
        if not side.images:
            return ""
        (image,) = side.images  # files hold at most one a side
        key = identity(image)
        if key not in self._placed:
            self._placed[key] = self._put(image, key)
        return self._placed[key]

    def _put(self, image: Any, key: str) -> str:
        name = image.member if isinstance(image, ZippedImage) else str(image)
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        relative = f"images/{digest[:2]}/{digest}{PurePosixPath(name).suffix.lower()}"
        path = self._directory / relative
        if path.exists():
            return relative
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, StoredImage):
            write_whole(path, image.read_bytes())
            return relative
        write_whole(path, functools.partial(_link_or_copy, image))
        return relative


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one that cannot link
        shutil.copyfile(source, target)
