"""`ega-jax data`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ega_jax.commands.common import DONE, FAILED, OnBadRecord, require_positive, say, select
from ega_jax.errors import BadInputError
from ega_jax.files import write_whole

if TYPE_CHECKING:
    from ega_jax.data.processor import Processor

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
    """Read every record and decode every picture; tell each bad one by file, row, field and reason.

    ega-jax data verify MMEB-train

    ega-jax data verify prepared/train --config configs/llava_onevision_7b.py --output train.html

    Exit code 0: nothing is wrong; 1: something is; 2: it could not be looked at.
    """

    directory: Annotated[str, tyro.conf.Positional]
    """A directory in MMEB's schema, prepared or not, or "glyphs"."""
    splits: tuple[SplitName, ...] = ("train", "validation", "test")
    """Which splits."""
    subsets: tuple[str, ...] = ()
    """Names of the subsets; empty takes all."""
    images: Path | None = None
    """What image paths are relative to, where that is not the directory."""
    config: Path | None = None
    """An experiment, whose tokenizer and image layout measure the rows; by default LLaVA-OneVision 7B's layout and a
    small tokenizer that is trained on the data."""
    output: Path = Path("verify.html")
    """The page with the histograms."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show:
    """Write some records as a page: images beside text, negatives too.

    ega-jax data show MMEB-train --subsets VisDial WebQA --rows 5
    """

    directory: Annotated[str, tyro.conf.Positional]
    """A directory in MMEB's schema, prepared or not, or "glyphs"."""
    split: SplitName = "train"
    """Which split."""
    subsets: tuple[str, ...] = ()
    """Names of the subsets; empty takes all."""
    rows: int = 4
    """Rows of each subset, drawn at random."""
    seed: int = 0
    """Of the draw."""
    output: Path = Path("show.html")
    """The page."""


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
    require_positive(chosen, "workers", "rows_per_shard")
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


def _verify(arguments: Sequence[str]) -> int:
    import numpy as np

    from ega_jax.data.directory import data_directory
    from ega_jax.inspection.pages import verification_page
    from ega_jax.inspection.verify import suggest_buckets, verify
    from ega_jax.training.progress import Progress

    chosen = tyro.cli(Verify, args=arguments, prog="ega-jax data verify")
    directory = data_directory(chosen.directory)
    processor = _processor(directory, chosen.config)
    found = []
    for one in verify(
        directory,
        processor,
        splits=chosen.splits,
        subsets=chosen.subsets,
        image_directory=chosen.images,
        progress=Progress().note,
    ):
        found.append(one)
        for error in one.bad:
            print(error)
        if one.broken:
            print(one.broken)
        if one.duplicates:
            (file, row), (earlier, first) = one.duplicates[0]
            print(f"{file}, row {row}: repeats {earlier}, row {first} ({len(one.duplicates)} duplicates in all)")
    sizes = [size for one in found for size in (one.query_sizes, one.target_sizes)]
    tokens, units = np.concatenate(sizes).T
    buckets = {}
    if len(tokens):
        buckets = {"token_buckets": suggest_buckets(tokens), "image_buckets": suggest_buckets(units)}
        print(f"measured with {_measure(chosen.config)}")
        for name, ladder in buckets.items():
            print(f"suggested data.{name}: {' '.join(map(str, ladder))}")
    page = verification_page(chosen.directory, found, processor.layout.unit, buckets)
    write_whole(chosen.output, page)
    bad = sum(len(one.bad) + bool(one.broken) for one in found)
    print(f"{sum(one.rows for one in found):,} rows, {bad:,} bad: {chosen.output}")
    return FAILED if bad else DONE


def _measure(experiment: Path | None) -> str:
    if experiment is not None:
        return f"the image layout and the tokenizer of {experiment}"
    return "LLaVA-OneVision 7B's image layout and a tokenizer trained on the data; --config EXPERIMENT takes another's"


def _show(arguments: Sequence[str]) -> int:
    from ega_jax.data.directory import data_directory
    from ega_jax.data.mixture import sample_rows
    from ega_jax.data.mmeb import find_subsets, read_eval, read_train
    from ega_jax.data.records import EvalSubset, TrainRows
    from ega_jax.inspection.pages import records_page

    chosen = tyro.cli(Show, args=arguments, prog="ega-jax data show")
    require_positive(chosen, "rows")
    directory = data_directory(chosen.directory)
    names = select([info.name for info in find_subsets(directory, chosen.split)], chosen.subsets, directory)
    shown: list[tuple[TrainRows | EvalSubset, list[int]]] = []
    for name in names:
        subset: TrainRows | EvalSubset
        if chosen.split == "train" or chosen.split == "diverse_instruction":
            subset = read_train(directory, name, chosen.split, on_bad_record="skip", verify_images="path")
            count = len(subset)
        else:
            subset = read_eval(directory, name, chosen.split, on_bad_record="skip", verify_images="path")
            count = len(subset.queries)
        shown.append((subset, sample_rows(count, chosen.rows, chosen.seed, name).tolist()))
    write_whole(chosen.output, records_page(f"{chosen.directory}, {chosen.split}", shown))
    print(f"{sum(len(rows) for _, rows in shown)} records of {len(shown)} subsets: {chosen.output}")
    return DONE


def _processor(directory: Path, experiment: Path | None) -> Processor:
    """The host side of an experiment; where it has no weights, with a tokenizer trained on the data."""
    from ega_jax.data.mmeb import find_subsets, read_train
    from ega_jax.training.config import TrainConfig, load_experiment
    from ega_jax.training.setup import make_processor, write_model_directory
    from ega_jax.training.train import texts_of

    config = TrainConfig(steps=1) if experiment is None else load_experiment(experiment)
    if config.model.weights is not None:
        return make_processor(config, config.model.weights)

    def texts() -> Iterator[str]:
        for info in find_subsets(directory, "train"):
            with contextlib.suppress(BadInputError):  # it will be told of with all the rest
                yield from texts_of([read_train(directory, info.name, on_bad_record="skip", verify_images="path")])

    with tempfile.TemporaryDirectory() as home:
        write_model_directory(config, Path(home) / "model", lambda: itertools.islice(texts(), 100_000))
        return make_processor(config, Path(home) / "model")


_COMMANDS = {"prepare": _prepare, "verify": _verify, "show": _show}
