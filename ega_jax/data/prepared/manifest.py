"""What a prepared directory says of itself: to us in `prepared.json`, to TFDS in its own two files."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np

from ega_jax.data.prepared.records import FIELDS
from ega_jax.data.records import SubsetInfo
from ega_jax.errors import BadInputError
from ega_jax.files import write_whole

DATASET = "mmeb"
VERSION = "1.0.0"
POOL = "_candidates"
"""Ends the split that holds an evaluation split's distinct candidates."""

_FILE = "prepared.json"


@dataclasses.dataclass(frozen=True)
class Part:
    """One split of one subset.

    Attributes:
      split: "train", "diverse_instruction", "validation", "test", or one of the last two with `POOL`.
      subset: its name.
      shards: rows of each file, in order.
      bytes: size of the files together.
      skipped, mended: rows left out, by reason, and rules of mending used, each with a count.
      seen: rows read.
    """

    split: str
    subset: str
    shards: tuple[int, ...]
    bytes: int = 0
    seen: int = 0
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    mended: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(self.shards)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The parts of a prepared directory, and what its subsets are."""

    parts: tuple[Part, ...]
    infos: dict[str, SubsetInfo]

    def part(self, split: str, subset: str) -> Part | None:
        """A split of a subset, or None."""
        return next((part for part in self.parts if (part.split, part.subset) == (split, subset)), None)

    def subsets(self, split: str) -> list[SubsetInfo]:
        """The subsets that have rows of a split."""
        return [self.infos[part.subset] for part in self.parts if part.split == split]


def split_name(split: str, subset: str) -> str:
    """What TFDS calls a split of a subset: its names hold letters, digits, `_` and `-`."""
    return f"{split}-{re.sub(r'[^A-Za-z0-9_-]', '_', subset)}"


def shard_files(directory: Path, split: str, subset: str, count: int) -> list[Path]:
    """The files of a part, in TFDS's naming."""
    stem = f"{DATASET}-{split_name(split, subset)}.array_record"
    return [directory / f"{stem}-{shard:05}-of-{count:05}" for shard in range(count)]


def outline_file(shard: Path) -> Path:
    """The file beside a shard that holds its rows without their pictures."""
    return shard.parent / "outline" / f"{shard.name}.parquet"


def is_prepared(directory: Path | str) -> bool:
    return Path(directory, _FILE).is_file()


def read_manifest(directory: Path | str) -> Manifest:
    """
    Raises:
      BadInputError: there is none, it is damaged, or a newer version wrote it.
    """
    path = Path(directory, _FILE)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise BadInputError(f"{path}: prepared by version {content['version']}, this one reads {VERSION}: upgrade")
        parts = tuple(Part(**{**part, "shards": tuple(part["shards"])}) for part in content["parts"])
        infos = {name: SubsetInfo(name, **info) for name, info in content["subsets"].items()}
        return Manifest(parts, infos)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}); prepare the data again") from None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes TFDS's files, then our own, whose presence says that all is there."""
    _write_tfds_metadata(directory, manifest)
    content = {
        "version": VERSION,
        "subsets": {
            name: {"meta_task": info.meta_task, "distribution": info.distribution}
            for name, info in manifest.infos.items()
        },
        "parts": [dataclasses.asdict(part) for part in manifest.parts],
    }
    write_whole(directory / _FILE, json.dumps(content, indent=2) + "\n")


def _write_tfds_metadata(directory: Path, manifest: Manifest) -> None:
    import tensorflow_datasets as tfds  # takes a second to import

    kinds = tfds.features
    side = {"text": kinds.Text(), "image": kinds.Tensor(shape=(), dtype=np.object_), "path": kinds.Text()}
    one, several = dict(side), {field: kinds.Sequence(dict(side)) for field in FIELDS[1:]}
    features = kinds.FeaturesDict(
        {
            "query": one,
            **several,
            "candidates": kinds.Sequence(kinds.Scalar(np.int64)),
            "source": kinds.Text(),
        }
    )
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    naming = tfds.core.ShardedFileTemplate(
        dataset_name=DATASET, data_dir=directory, filetype_suffix="array_record", template=template
    )
    splits = [
        tfds.core.SplitInfo(
            name=split_name(part.split, part.subset),
            shard_lengths=list(part.shards),
            num_bytes=part.bytes,
            filename_template=naming,
        )
        for part in manifest.parts
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        split_infos=splits,
        filename_template=template,
        version=VERSION,
        check_data=False,  # that check needs TensorFlow
        description="Rows in MMEB's schema (arXiv 2410.05160), prepared by ega_jax.",
    )
