"""`ega-jax embed`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jax
import tyro

from ega_jax.commands.common import DONE, FAILED, OnBadRecord, require_positive, say, tell_skipped
from ega_jax.errors import BadInputError
from ega_jax.training.distributed import DistributedError, Processes, agreed, first_alone, join
from ega_jax.vectors.directory import Format
from ega_jax.vectors.precision import Precision

if TYPE_CHECKING:
    from ega_jax.embedder import Embedder
    from ega_jax.vectors.directory import VectorDirectory
    from ega_jax.vectors.items import Items


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embed:
    """Turn texts and pictures into vectors on disk; go on with what an interrupted run of the same command left.

    ega-jax embed runs/demo corpus.jsonl vectors

    ega-jax embed models/mine pictures/ vectors --instruction "Represent the given image." --precision int8
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A run directory, or a model directory."""
    source: Annotated[Path, tyro.conf.Positional]
    """A .jsonl or .parquet file with columns text, image or images, and optionally id; or a folder of pictures."""
    output: Annotated[Path, tyro.conf.Positional]
    """The new directory."""
    instruction: str = ""
    """Stands before every text, as in the training rows."""
    dimensions: int | None = None
    """Cut vectors to so many entries, where the model was trained for it."""
    precision: Precision = "float32"
    """How vectors are stored: int8 keeps directions to about 1 %, binary the signs alone."""
    format: Format = "safetensors"
    """Of the shards; parquet holds the ids beside the vectors."""
    batch_size: int = 128
    """Items encoded at once."""
    shard_size: int = 8192
    """Vectors a file: what an interruption can cost."""
    on_bad_record: OnBadRecord = "error"
    """A row that cannot be used stops the command, or is counted, reported and left out."""
    processes: Processes = dataclasses.field(default_factory=Processes)
    """How several processes share the work; one alone needs nothing."""


def run(arguments: Sequence[str]) -> int:
    """Embeds a source."""
    chosen = tyro.cli(Embed, args=arguments, prog="ega-jax embed")
    require_positive(chosen, "shard_size", "batch_size")
    try:
        join(chosen.processes)
        return _embed(chosen)
    except DistributedError as error:
        say(str(error))
        return FAILED


def _embed(chosen: Embed) -> int:
    from ega_jax.embedder import Embedder
    from ega_jax.models.fingerprint import weights_fingerprint
    from ega_jax.vectors.directory import Description, VectorDirectory, digest, item_lines
    from ega_jax.vectors.items import read_items

    first = jax.process_index() == 0
    found = read_items(
        chosen.source,
        instruction=chosen.instruction,
        on_bad_record=chosen.on_bad_record,
        decode=chosen.on_bad_record == "skip",
    )
    if first:
        tell_skipped(str(chosen.source), found.skipped)
    embedder = Embedder.from_pretrained(chosen.model)
    width = chosen.dimensions or embedder.width
    if chosen.precision == "binary" and width % 8:
        raise BadInputError(f"binary vectors need a width that 8 divides, not {width}: choose --dimensions")
    lines = item_lines(found.items)
    description = Description(
        model=str(chosen.model.resolve()),
        weights=weights_fingerprint(embedder.parameters),
        source=str(chosen.source.resolve()),
        items=digest(lines),
        instruction=chosen.instruction,
        count=len(found.items),
        width=width,
        precision=chosen.precision,
        format=chosen.format,
        shard_size=chosen.shard_size,
    )
    directory = VectorDirectory(chosen.output, description)
    with first_alone("the directory of vectors"):
        if first:
            directory = VectorDirectory.create(chosen.output, description, lines)
    _write_missing(directory, found, embedder, chosen, first)
    if first:
        print(f"{len(found.items):,} vectors of {width} entries, {chosen.precision}: {chosen.output}")
    return DONE


def _write_missing(directory: VectorDirectory, found: Items, embedder: Embedder, chosen: Embed, first: bool) -> None:
    from ega_jax.training.progress import Progress

    # What is there is what process 0 sees: all must embed the same shards together.
    names = agreed([shard[0] for shard in directory.missing()])
    missing = [shard for shard in directory.description.shards if shard[0] in names]
    items = sum(stop - start for _, start, stop in missing)
    progress = Progress(silent=not first)
    if items < len(found.items):
        progress.note(f"{len(found.items) - items:,} of {len(found.items):,} vectors are there already")
    count = progress.counter("embedded", items)
    began = time.monotonic()
    for shard in missing:
        _, start, stop = shard
        part = found.items[start:stop]
        vectors = embedder.encode(
            [item.side for item in part],
            batch_size=chosen.batch_size,
            dimensions=chosen.dimensions,
            progress=count,
        )
        if first:
            directory.write(shard, [item.id for item in part], vectors)
    if items:
        progress.note(f"{items / max(time.monotonic() - began, 1e-9):,.1f} items/s")
