"""Preparing a data directory: several processes write shards; what is done stays done.

Each shard is written whole, then its marker. A preparation that is stopped in whatever way goes on with the shards that
have none; equal sources and settings give equal files, byte for byte, whatever the number of processes and kills.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ega_jax.data.bad_records import BadRecords
from ega_jax.data.image_files import ZippedImage
from ega_jax.data.mmeb import OnBadRecord, find_subsets, read_eval, read_train
from ega_jax.data.prepared.manifest import (
    DATASET,
    POOL,
    Manifest,
    Part,
    is_prepared,
    read_manifest,
    shard_files,
    write_manifest,
)
from ega_jax.data.prepared.shard import PlainRow, Written, write_shard
from ega_jax.data.subsets import Split, find_files
from ega_jax.errors import BadInputError
from ega_jax.files import write_whole

if TYPE_CHECKING:
    from ega_jax.data.records import Side, SubsetInfo, TrainRows
    from ega_jax.data.subsets import EvalSplit

ROWS_PER_SHARD = 2048
"""At 100 KB a picture, files of a few hundred megabytes."""

_MARKERS = ".markers"
_PLAN = "plan"


@dataclasses.dataclass
class _Job:
    """One part that is to be written."""

    split: str
    info: SubsetInfo
    rows: TrainRows | list[PlainRow]
    skipped: BadRecords


def prepare(
    source: Path,
    output: Path,
    *,
    splits: Sequence[Split] = ("train", "validation", "test"),
    subsets: Sequence[str] = (),
    image_directory: Path | None = None,
    workers: int = 1,
    rows_per_shard: int = ROWS_PER_SHARD,
    on_bad_record: OnBadRecord = "error",
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Manifest:
    """Writes `output`, or what is still missing of it.

    Args:
      source: a data directory.
      output: a new directory, or one that the same preparation was writing.
      splits: which splits; a subset may lack some.
      subsets: their names; empty takes all.
      image_directory: what image paths are relative to; default `source`.
      workers: processes that write.
      rows_per_shard: rows of a file.
      on_bad_record: "error" stops at the first bad row, "skip" leaves bad rows out and counts them.
      progress: told of what is being done, how much of it is done, and how much there is.

    Raises:
      BadInputError: the source is wrong, `output` holds something else, or the disk is too small.
      BadRecordError: a row is bad and `on_bad_record` is "error".
    """
    if is_prepared(source):
        raise BadInputError(f"{source} is prepared already")
    chosen = _chosen(source, splits, subsets)
    settings = [str(image_directory), rows_per_shard, on_bad_record]
    markers = _claim(output, _fingerprint(source, chosen, settings))
    if is_prepared(output):
        return read_manifest(output)
    jobs: list[_Job] = []
    for done, (split, info) in enumerate(chosen):
        progress(f"reading {info.name} ({split})", done, len(chosen))
        jobs += _read(source, split, info, on_bad_record, image_directory)
    tasks = [task for job in jobs for task in _tasks(job, output, markers, rows_per_shard)]
    missing = [task for task in tasks if not task.marker.is_file()]
    _require_space(output, [task.rows for task in missing])
    total = sum(len(task.rows) for task in tasks)
    done = total - sum(len(task.rows) for task in missing)
    progress("writing rows", done, total)
    for count in _run(missing, image_directory or source, on_bad_record == "skip", workers):
        done += count
        progress("writing rows", done, total)
    manifest = _manifest(jobs, tasks)
    write_manifest(output, manifest)
    shutil.rmtree(markers)
    for home in (output, output / "outline"):
        for left in home.glob(f".{DATASET}-*"):  # by processes that were killed
            left.unlink()
    return manifest


@dataclasses.dataclass(frozen=True)
class _Task:
    """One shard of a job."""

    job: int
    shard: Path
    marker: Path
    rows: TrainRows | list[PlainRow]


def _chosen(source: Path, splits: Sequence[Split], names: Sequence[str]) -> list[tuple[Split, SubsetInfo]]:
    found = [(split, info) for split in splits for info in find_subsets(source, split)]
    if not found:
        raise BadInputError(f"{source}: no rows of {', '.join(splits)}; expected DIR/<subset>/original*.parquet or so")
    for name in names:
        if not any(info.name == name for _, info in found):
            find_files(source, name, splits[0])  # says what is there
    return [(split, info) for split, info in found if not names or info.name in names]


def _fingerprint(source: Path, chosen: Sequence[tuple[Split, SubsetInfo]], settings: Sequence[object]) -> str:
    """Of all that decides what is written, but for the pictures: those are assumed to stay as they are."""
    files = [file for split, info in chosen for file in find_files(source, info.name, split)[1]]
    states = [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps([states, *settings]).encode()).hexdigest()


def _claim(output: Path, plan: str) -> Path:
    """The directory of markers of a preparation that is new or the same as before."""
    markers = output / _MARKERS
    known = output / f".{_PLAN}"
    if known.is_file():
        # One that ended at a bad row, before it wrote anything, is in nobody's way.
        began = is_prepared(output) or (markers.is_dir() and any(markers.iterdir()))
        if began and known.read_text() != plan:
            raise BadInputError(
                f"{output} holds another preparation (of other data or settings, or of data that has changed since): "
                "choose another directory, or delete it"
            )
    elif output.exists() and any(output.iterdir()):
        raise BadInputError(f"{output} is not empty, and nothing that was prepared here")
    for directory in (markers, output / "outline"):
        directory.mkdir(parents=True, exist_ok=True)
    write_whole(known, plan)
    return markers


def _read(
    source: Path, split: Split, info: SubsetInfo, on_bad_record: OnBadRecord, image_directory: Path | None
) -> Iterator[_Job]:
    if split in ("train", "diverse_instruction"):
        subset = read_train(
            source,
            info.name,
            split,
            on_bad_record=on_bad_record,
            verify_images="path",  # they are decoded when they are written
            image_directory=image_directory,
        )
        yield _Job(split, info, subset, subset.skipped)
        return
    # A bad candidate spoils every row that has it, so this must be known before the first one is written.
    pool = read_eval(
        source,
        info.name,
        cast("EvalSplit", split),
        on_bad_record=on_bad_record,
        verify_images="decode",
        image_directory=image_directory,
    )
    (_, (file, *_)) = find_files(source, info.name, split)
    queries = [
        PlainRow(query, candidates=candidates.tolist(), file=file, number=number)
        for number, (query, candidates) in enumerate(zip(pool.queries, pool.candidates, strict=True))
    ]
    targets = [PlainRow(None, [target], file=file, number=number) for number, target in enumerate(pool.targets)]
    yield _Job(split, info, queries, pool.skipped)
    yield _Job(split + POOL, info, targets, BadRecords())


def _tasks(job: _Job, output: Path, markers: Path, rows_per_shard: int) -> Iterator[_Task]:
    count = max(-(-len(job.rows) // rows_per_shard), 1)
    for number, shard in enumerate(shard_files(output, job.split, job.info.name, count)):
        rows = range(number * rows_per_shard, min((number + 1) * rows_per_shard, len(job.rows)))
        part = job.rows[rows.start : rows.stop] if isinstance(job.rows, list) else job.rows.take(np.asarray(rows))
        yield _Task(id(job), shard, markers / f"{shard.name}.json", part)


def _require_space(output: Path, parts: Sequence[TrainRows | list[PlainRow]]) -> None:
    """Raises BadInputError if the disk has no room for what is to be written."""
    sizes: dict[str, int] = {}
    needed = 0
    for rows in parts:
        for side in _sides(rows):
            needed += len(side.text)
            for image in side.images:
                name = str(image)
                if name not in sizes:
                    sizes[name] = image.file_size if isinstance(image, ZippedImage) else os.stat(name).st_size
                needed += sizes[name]
    free = shutil.disk_usage(output).free
    if needed * 1.02 > free:
        raise BadInputError(
            f"{output}: {needed * 1.02 / 1e9:.1f} GB are to be written and {free / 1e9:.1f} GB are free; make room, "
            "then start the same command again"
        )


def _sides(rows: TrainRows | list[PlainRow]) -> Iterator[Side]:
    for number in range(len(rows)):
        row = rows[number]
        targets = row.targets if isinstance(row, PlainRow) else row.positives
        yield from (side for side in (row.query, *targets, *row.negatives) if side is not None)


def _run(tasks: Sequence[_Task], home: Path, skip: bool, workers: int) -> Iterator[int]:
    """Writes shards; yields rows done."""
    if workers < 2:
        for task in tasks:
            write_shard(task.shard, task.marker, task.rows, home, skip)
            yield len(task.rows)
        return
    # Spawned, for a fork would copy the threads' locks of whatever the parent has loaded.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _stay_with_parent)
    try:
        futures = {
            pool.submit(write_shard, task.shard, task.marker, task.rows, home, skip): len(task.rows) for task in tasks
        }
        for future in concurrent.futures.as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        pool.shutdown(cancel_futures=True)


def _stay_with_parent() -> None:
    """A worker leaves interrupts to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _manifest(jobs: Sequence[_Job], tasks: Sequence[_Task]) -> Manifest:
    parts = []
    for job in jobs:
        shards = [Written.load(task.marker) for task in tasks if task.job == id(job)]
        skipped = Counter(job.skipped.reasons)
        skipped.update(f"{error.field}: {error.reason.partition(':')[0]}" for shard in shards for error in shard.bad)
        parts.append(
            Part(
                job.split,
                job.info.name,
                tuple(shard.rows for shard in shards),
                sum(shard.bytes for shard in shards),
                job.skipped.rows or len(job.rows),
                dict(skipped),
                dict(job.skipped.mended),
            )
        )
    return Manifest(tuple(parts), {job.info.name: job.info for job in jobs})
