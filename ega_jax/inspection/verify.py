"""Holding every record of a data directory to account."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ega_jax.data.images import ImageError, open_image
from ega_jax.data.index import SubsetIndex, index_subset
from ega_jax.data.mmeb import find_subsets, read_eval, read_train
from ega_jax.data.prepared.read import PreparedTrainSubset
from ega_jax.data.prepared.records import RecordImage
from ega_jax.data.records import BadRecordError, Side, SubsetInfo, TrainRows
from ega_jax.data.subsets import EVAL_SPLITS, Split
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from jaxtyping import Int

    from ega_jax.data.processor import Processor

_THREADS = 8


@dataclasses.dataclass
class Findings:
    """What is known of one split of one subset after every record was read and every picture decoded.

    Attributes:
      info, split: which.
      rows: good and bad.
      bad: each bad record.
      broken: why the split cannot be read at all, or "".
      mended: how often each rule of mending was used.
      duplicates: where training rows stand whose query and positive are those of an earlier row, and where that one
        stands: (file, row) each.
      query_sizes, target_sizes: tokens and image slots of each side of the training rows, (n, 2).
    """

    info: SubsetInfo
    split: str
    rows: int = 0
    bad: list[BadRecordError] = dataclasses.field(default_factory=list)
    broken: str = ""
    mended: Counter[str] = dataclasses.field(default_factory=Counter)
    duplicates: list[tuple[tuple[Path, int], tuple[Path, int]]] = dataclasses.field(default_factory=list)
    query_sizes: Int[np.ndarray, "n 2"] = dataclasses.field(default_factory=lambda: np.zeros((0, 2), np.int64))
    target_sizes: Int[np.ndarray, "m 2"] = dataclasses.field(default_factory=lambda: np.zeros((0, 2), np.int64))

    @property
    def sound(self) -> bool:
        return not self.bad and not self.broken


def verify(
    directory: Path,
    processor: Processor,
    *,
    splits: Sequence[Split],
    subsets: Sequence[str] = (),
    image_directory: Path | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> Iterator[Findings]:
    """Reads every record and decodes every picture of a directory, prepared or not.

    Args:
      directory: of the data.
      processor: measures the rows.
      splits: which splits.
      subsets: their names; empty takes all.
      image_directory: what image paths are relative to; default `directory`.
      progress: told of what comes next.

    Raises:
      BadInputError: there is no such directory, or none of its subsets is meant.
    """
    found = [(split, info) for split in splits for info in find_subsets(directory, split)]
    chosen = [(split, info) for split, info in found if not subsets or info.name in subsets]
    if missing := sorted(set(subsets) - {info.name for _, info in found}):
        raise BadInputError(f"{directory}: no subset {missing[0]!r} with rows of {', '.join(splits)}")
    if not chosen:
        raise BadInputError(f"{directory}: no rows of {', '.join(splits)}; expected DIR/<subset>/<split>*.parquet")
    for split, info in chosen:
        progress(f"verifying {info.name} ({split})")
        findings = Findings(info, split)
        try:
            _verify(findings, directory, processor, image_directory)
        except BadRecordError as error:
            findings.bad.append(error)
        except BadInputError as error:
            findings.broken = str(error)
        yield findings


def _verify(findings: Findings, directory: Path, processor: Processor, image_directory: Path | None) -> None:
    name, split = findings.info.name, findings.split
    if split in EVAL_SPLITS:
        pool = read_eval(
            directory,
            name,
            "validation" if split == "validation" else "test",
            on_bad_record="skip",
            verify_images="decode",
            image_directory=image_directory,
            keep_errors=None,
        )
        skipped = pool.skipped
        stored = [("query", side) for side in pool.queries] + [("targets", side) for side in pool.targets]
        decode = iter(stored)
    else:
        subset = read_train(
            directory,
            name,
            "diverse_instruction" if split == "diverse_instruction" else "train",
            on_bad_record="skip",
            verify_images="decode",
            image_directory=image_directory,
            keep_errors=None,
        )
        skipped = subset.skipped
        decode = _sides(subset) if isinstance(subset, PreparedTrainSubset) else iter(())
        index = index_subset(subset, processor)
        findings.duplicates = [(subset.location(row), subset.location(first)) for row, first in _duplicates(index)]
        findings.query_sizes = np.stack([index.queries.tokens, index.queries.units], 1)
        targets = [np.concatenate([index.positives[k], index.negatives[k]]) for k in (0, 1)]
        findings.target_sizes = np.stack(targets, 1)
    findings.rows, findings.mended = skipped.rows, skipped.mended
    findings.bad += skipped.first
    # What was prepared was read without a look at its pictures, which a disk may have damaged since.
    findings.bad += _decoded(decode)


def _sides(subset: TrainRows) -> Iterator[tuple[str, Side]]:
    for row in range(len(subset)):
        record = subset[row]
        yield "query", record.query
        yield from (("targets", side) for side in record.positives)
        yield from (("negatives", side) for side in record.negatives)


def _decoded(sides: Iterator[tuple[str, Side]]) -> Iterator[BadRecordError]:
    """An error for each prepared picture that does not decode; others were decoded when they were read."""

    def look(item: tuple[str, Side]) -> BadRecordError | None:
        field, side = item
        for image in side.images:
            if isinstance(image, RecordImage):
                try:
                    open_image(image)
                except ImageError as error:
                    return BadRecordError(image.file, image.number, field, str(error))
        return None

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        while chunk := list(itertools.islice(sides, 1024)):
            yield from filter(None, pool.map(look, chunk))


def _duplicates(index: SubsetIndex) -> list[tuple[int, int]]:
    first: dict[tuple[int, int], int] = {}
    pairs = zip(index.queries.item.tolist(), index.positives.item[index.first_positive[:-1]].tolist(), strict=True)
    return [(row, first[pair]) for row, pair in enumerate(pairs) if first.setdefault(pair, row) != row]


def suggest_buckets(sizes: Int[np.ndarray, " n"], count: int = 6) -> tuple[int, ...]:
    """The `count` padded sizes under which rows of these sizes waste the least, if each is padded to the next one.

    Args:
      sizes: of all rows, not negative.
      count: how many sizes at most.
    """
    if not len(sizes):
        return ()
    step = max(1, int(sizes.max()) // 256)
    # A multiple of 8 lays well in memory where sizes are large.
    step = -(-step // 8) * 8 if sizes.max() >= 64 else step
    ends, rows = np.unique(-(-sizes // step) * step, return_counts=True)
    if len(ends) <= count:
        return tuple(ends.tolist())
    before = np.concatenate([[0], np.cumsum(rows)])
    # best[k][j]: least padded total of the first j sizes in k buckets, the last of which ends at size j.
    best = np.full((count + 1, len(ends) + 1), np.inf)
    best[0, 0] = 0
    chosen = np.zeros((count + 1, len(ends) + 1), int)
    for k in range(1, count + 1):
        for j in range(1, len(ends) + 1):
            totals = best[k - 1, :j] + (before[j] - before[:j]) * ends[j - 1]
            chosen[k, j] = int(np.argmin(totals))
            best[k, j] = totals[chosen[k, j]]
    ladder, j = [], len(ends)
    for k in range(count, 0, -1):
        ladder.append(int(ends[j - 1]))
        j = chosen[k, j]
    return tuple(reversed(ladder))
