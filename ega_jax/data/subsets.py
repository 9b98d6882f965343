"""Which subsets a data directory holds, in which files, and where each stands in MMEB's tables."""

from __future__ import annotations

import collections
import difflib
import json
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

from ega_jax.data.prepared.manifest import is_prepared, read_manifest
from ega_jax.data.records import Distribution, MetaTask, SubsetInfo
from ega_jax.errors import BadInputError

TrainSplit = Literal["train", "diverse_instruction"]
EvalSplit = Literal["validation", "test"]
Split = TrainSplit | EvalSplit
EVAL_SPLITS = get_args(EvalSplit)

# MMEB's 36 (arXiv 2410.05160, table 1), in the order of its tables.
_TABLE: tuple[tuple[MetaTask, Distribution, str], ...] = (
    ("classification", "in", "ImageNet-1K N24News HatefulMemes VOC2007 SUN397"),
    ("classification", "out", "Place365 ImageNet-A ImageNet-R ObjectNet Country211"),
    ("vqa", "in", "OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA Visual7W"),
    ("vqa", "out", "ScienceQA VizWiz GQA TextVQA"),
    ("retrieval", "in", "VisDial CIRR VisualNews_t2i VisualNews_i2t MSCOCO_t2i MSCOCO_i2t NIGHTS WebQA"),
    ("retrieval", "out", "FashionIQ Wiki-SS-NQ OVEN EDIS"),
    ("grounding", "in", "MSCOCO"),
    ("grounding", "out", "RefCOCO RefCOCO-Matching Visual7W-Pointing"),
)
SUBSETS: dict[str, SubsetInfo] = {
    name: SubsetInfo(name, meta_task, distribution)
    for meta_task, distribution, names in _TABLE
    for name in names.split()
}
"""MMEB's 36 subsets by name: 20 in and 16 out of distribution."""

ALIASES = {"ImageNet_1K": "ImageNet-1K"}
"""Names of the published training set that differ from those of the evaluation set."""

_PREFIXES = {
    "train": ("original", "train"),
    "diverse_instruction": ("diverse_instruction",),
    "validation": ("validation",),
    "test": ("test",),
}
_SUFFIXES = (".parquet", ".jsonl")
_METADATA = "subsets.json"


def find_subsets(directory: Path | str, split: Split) -> list[SubsetInfo]:
    """The subsets of which `directory` has rows of `split`: MMEB's in the order of its tables, then others by name.

    Args:
      directory: holds one directory a subset and, if need be, `subsets.json`, whose entries
        (`{"name": {"meta_task": ..., "distribution": ..., "description": ...}}`) override what is known of a
        subset. A subset that neither MMEB nor the file names is ("other", "in").
      split: "train" (files `original*` or `train*`), "diverse_instruction" (the same rows under many wordings of each
        instruction), "validation" or "test".

    Raises:
      BadInputError: no such directory, or `subsets.json` is malformed.
    """
    if is_prepared(directory):
        return read_manifest(directory).subsets(split)
    names = {_canonical(home.name) for home in _homes(directory) if any(_files(home, split))}
    order = {name: place for place, name in enumerate(SUBSETS)}
    metadata = _metadata(directory)
    return [_info(name, metadata) for name in sorted(names, key=lambda name: (order.get(name, len(order)), name))]


def find_files(directory: Path | str, subset: str, split: Split) -> tuple[SubsetInfo, list[Path]]:
    """A subset and the files of one of its splits, in order; either name of an alias finds both directories.

    Raises:
      BadInputError: no such subset or split, a shard `-00003-of-00008` is missing, or rows would be read twice because
        the split is there in two formats or under two names.
    """
    name = _canonical(subset)
    homes = [home for home in _homes(directory) if _canonical(home.name) == name]
    files = [file for home in homes for file in sorted(_files(home, split))]
    if not files:
        existing = [info.name for info in find_subsets(directory, split)]
        near = difflib.get_close_matches(subset, existing, n=1)
        known = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(existing) or 'no subset at all'}"
        raise BadInputError(f"{directory} has no {split} rows of subset {subset!r}; of that split {known}")
    kinds = sorted({str(file.parent / f"{_prefix(file, split)}*{file.suffix}") for file in files})
    if len(kinds) > 1:
        raise BadInputError(f"the {split} rows of {name!r} are there twice, remove one: {' and '.join(kinds)}")
    _check_shards(files)
    return _info(name, _metadata(directory)), files


def suggestion(name: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' when one of the known names is near, else ''."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _canonical(name: str) -> str:
    return ALIASES.get(name, name)


def _homes(directory: Path | str) -> list[Path]:
    try:
        return sorted(path for path in Path(directory).iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError as error:
        raise BadInputError(f"{directory}: cannot list the data directory ({error.strerror})") from error


def _files(home: Path, split: Split) -> Iterator[Path]:
    """Files that start with one of the split's prefixes; so not the `._original...` that some archivers
    leave."""
    if split not in _PREFIXES:
        raise ValueError(f"split must be one of {', '.join(_PREFIXES)}, got {split!r}")
    for file in home.iterdir():
        if file.suffix in _SUFFIXES and file.name.startswith(_PREFIXES[split]) and file.is_file():
            yield file


def _prefix(file: Path, split: Split) -> str:
    return next(prefix for prefix in _PREFIXES[split] if file.name.startswith(prefix))


def _check_shards(files: Iterable[Path]) -> None:
    """An interrupted download must not pass for a small subset."""
    seen = collections.defaultdict(set)
    for file in files:
        if match := re.fullmatch(r"(.*)-(\d+)-of-(\d+)", file.stem):
            seen[file.with_name(match[1]), int(match[3])].add(int(match[2]))
    for (stem, count), shards in seen.items():
        if missing := sorted(set(range(count)) - shards):
            raise BadInputError(f"{stem}: shard {missing[0]} of {count} is missing ({len(missing)} in all)")


def _info(name: str, metadata: dict[str, SubsetInfo]) -> SubsetInfo:
    return metadata.get(name) or SUBSETS.get(name) or SubsetInfo(name)


def _metadata(directory: Path | str) -> dict[str, SubsetInfo]:
    """The checked entries of `subsets.json`; none where there is no such file."""
    path = Path(directory, _METADATA)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: expected an object that maps names of subsets to objects")
    return {_canonical(name): _entry(path, name, entry) for name, entry in content.items()}


def _entry(path: Path, name: str, entry: object) -> SubsetInfo:
    if not isinstance(entry, dict):
        raise BadInputError(f"{path}: the entry of {name!r} is not an object")
    canonical = _canonical(name)
    default = SUBSETS.get(canonical, SubsetInfo(canonical))
    allowed: dict[str, tuple[str, ...]] = {
        "meta_task": get_args(MetaTask),
        "distribution": get_args(Distribution),
        "description": (),
    }
    for key, value in entry.items():
        if key not in allowed:
            raise BadInputError(f"{path}: unknown key {key!r} of {name!r}{suggestion(key, allowed)}")
        if not isinstance(value, str) or (allowed[key] and value not in allowed[key]):
            choices = f"one of {', '.join(allowed[key])}" if allowed[key] else "a string"
            raise BadInputError(f"{path}: {key} of {name!r} is {value!r}, expected {choices}")
    return SubsetInfo(
        canonical,
        typing.cast("MetaTask", entry.get("meta_task", default.meta_task)),
        typing.cast("Distribution", entry.get("distribution", default.distribution)),
    )
