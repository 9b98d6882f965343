"""`ega-jax data`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ega_jax.commands.common import DONE, OnBadRecord, say
from ega_jax.errors import BadInputError

SplitName = Literal["train", "diverse_instruction", "validation", "test"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """Write data once as ArrayRecord files with the pictures inside, which training and evaluation read at random.

    ega-jax data prepare MMEB-train prepared/train --workers 16

    ega-jax data prepare MMEB-train prepared/train --on-bad-record skip --config configs/llava_onevision_7b.py
    """

    source: Annotated[str, tyro.conf.Positional]
    """A directory in MMEB's schema, or "hf://datasets/OWNER/NAME"."""
    output: Annotated[Path, tyro.conf.Positional]
    """The new directory; one that an interrupted preparation left is gone on with."""
    splits: tuple[SplitName, ...] = ("train", "validation", "test")
    """Which splits."""
    subsets: tuple[str, ...] = ()
    """Names of the subsets; empty takes all."""
    images: Path | None = None
    """What image paths are relative to, where that is not the source."""
    workers: int = max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 1)
    """Processes that write."""
    rows_per_shard: int = 2048
    """Rows of a file."""
    on_bad_record: OnBadRecord = "error"
    """A row that cannot be used stops the preparation, or is counted, reported and left out."""
    config: Path | None = None
    """An experiment with given weights, whose tokenizer measures all rows now and not when its first run starts."""


def run(arguments: Sequence[str]) -> int:
    """Carries out one of the commands."""
    usage = f"ega-jax data {' | '.join(_COMMANDS)}; each explains itself with --help"
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: {usage}")
        return DONE
    if not arguments or arguments[0] not in _COMMANDS:
        raise BadInputError(f"say what to do: {usage}")
    return _COMMANDS[arguments[0]](arguments[1:])


def _prepare(arguments: Sequence[str]) -> int:
    from ega_jax.data.directory import data_directory
    from ega_jax.data.prepared.write import prepare
    from ega_jax.training.progress import Progress

    chosen = tyro.cli(Prepare, args=arguments, prog="ega-jax data prepare")
    progress = Progress()
    written = [0]
    counters: dict[str, Callable[[int], None]] = {}

    def tell(what: str, done: int, total: int) -> None:
        if what != "writing rows":
            progress.note(what)
            return
        counter = counters.setdefault(what, progress.counter(what, total))
        counter(done - written[0])
        written[0] = done

    manifest = prepare(
        data_directory(chosen.source),
        chosen.output,
        splits=chosen.splits,
        subsets=chosen.subsets,
        image_directory=chosen.images,
        workers=chosen.workers,
        rows_per_shard=chosen.rows_per_shard,
        on_bad_record=chosen.on_bad_record,
        progress=tell,
    )
    for part in manifest.parts:
        for reason, count in part.skipped.items():
            say(f"{part.subset} ({part.split}): left out, {count} x {reason}")
        for rule, count in part.mended.items():
            say(f"{part.subset} ({part.split}): mended, {count} times: {rule}")
        print(f"{part.split:>24}  {part.subset:<24} {part.rows:>9,} rows  {part.bytes / 1e6:>10,.1f} MB")
    if chosen.config is not None:
        _index(chosen.output, chosen.config, progress.note)
    print(f"prepared {sum(part.rows for part in manifest.parts):,} rows: {chosen.output}")
    return DONE


def _index(directory: Path, experiment: Path, note: Callable[[str], None]) -> None:
    """Measures all training rows with an experiment's tokenizer and image layout."""
    from ega_jax.data.index_files import indexed
    from ega_jax.data.mmeb import find_subsets, read_train
    from ega_jax.training.config import load_experiment
    from ega_jax.training.setup import make_processor

    config = load_experiment(experiment)
    if config.model.weights is None:
        raise BadInputError(
            f"{experiment}: starts from random weights with a tokenizer of its own, which its first run will train: "
            "nothing to measure with before"
        )
    processor = make_processor(config, config.model.weights)
    for info in find_subsets(directory, "train"):
        note(f"measuring {info.name}")
        indexed(read_train(directory, info.name), processor)


_COMMANDS = {"prepare": _prepare}
