"""`ega-jax eval`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from ega_jax.commands.common import DONE, FAILED, OnBadRecord, say, select, tell_skipped
from ega_jax.data.directory import GLYPHS
from ega_jax.errors import BadInputError
from ega_jax.training.config import from_json

if TYPE_CHECKING:
    from ega_jax.data.records import EvalSubset
    from ega_jax.embedder import Embedder
    from ega_jax.evaluation import Results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    """Score a run as MMEB does: hit@1 in each query's own pool, ties against us.

    ega-jax eval runs/demo

    ega-jax eval runs/mine --data my_data --on-bad-record skip
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A run directory, or a model directory."""
    data: str | None = None
    """A directory in MMEB's schema, or "glyphs"; by default what the run was trained on."""
    split: Literal["test", "validation"] = "test"
    subsets: tuple[str, ...] = ()
    """Names of the subsets to score; empty takes all."""
    batch_size: int = 128
    """Items encoded at once."""
    dimensions: int | None = None
    """Score vectors cut to their first so many entries and normalised again (Matryoshka); by default whole ones."""
    untrained: bool = True
    """Score the weights that the run started from too, for comparison."""
    on_bad_record: OnBadRecord = "error"
    """A row that cannot be used stops the evaluation, or is counted, reported and left out."""
    output: Path | None = None
    """Where results.json goes; by default the run directory, which gets its report.html too, or
    dimensions_N in it for --dimensions N."""


def run(arguments: Sequence[str]) -> int:
    """Scores a run, writes results.json and report.html, prints the table."""
    from ega_jax.data.directory import data_directory
    from ega_jax.data.mmeb import find_subsets, read_eval
    from ega_jax.embedder import Embedder
    from ega_jax.evaluation import NonFiniteEmbeddingError, results_table
    from ega_jax.evaluation.report import write_report

    chosen = tyro.cli(Eval, args=arguments, prog="ega-jax eval")
    config = from_json(chosen.run / "config.json") if (chosen.run / "model").is_dir() else None
    name = chosen.data or (config.data.directory if config else None)
    output = chosen.output or (_output_of(chosen) if config else None)
    if name is None or output is None:
        raise BadInputError(f"{chosen.run} is not a run directory: to score a model give --data DIR and --output DIR")
    directory = data_directory(name, config.seed if config else 0)
    found = [info.name for info in find_subsets(directory, chosen.split)]
    subsets = [
        read_eval(
            directory,
            subset,
            chosen.split,
            on_bad_record=chosen.on_bad_record,
            verify_images="path" if name == GLYPHS else "decode",
        )
        for subset in select(found, chosen.subsets, directory)
    ]
    for subset in subsets:
        tell_skipped(subset.info.name, subset.skipped)
    # MMEB's 36 are known by their names; of the embedded data all subsets are expected.
    suite: dict[str, Any] = {"suite": GLYPHS, "expected": found} if name == GLYPHS else {}

    embedder = Embedder.from_pretrained(chosen.run)
    baseline = None
    try:
        if config is not None and chosen.untrained:
            start = embedder.with_parameters(Embedder.from_pretrained(chosen.run, untrained=True).parameters)
            baseline = _score(start, subsets, chosen, suite, "before training")
            baseline.save(output, "results_untrained")
        results = _score(embedder, subsets, chosen, suite, "trained")
    except NonFiniteEmbeddingError as error:
        say(f"{error}; the weights have diverged, or the wrong ones were loaded")
        return FAILED
    path = results.save(output)
    Console().print(results_table(results, baseline))
    say(f"wrote {path}")
    if config is not None:
        say(f"wrote {write_report(output)}")
    return DONE


def _output_of(chosen: Eval) -> Path:
    """Where a run's scores go: those of cut vectors must not replace those of whole ones."""
    return chosen.run if chosen.dimensions is None else chosen.run / f"dimensions_{chosen.dimensions}"


def _score(
    embedder: Embedder, subsets: Sequence[EvalSubset], chosen: Eval, suite: Mapping[str, Any], what: str
) -> Results:
    from ega_jax.evaluation import evaluate
    from ega_jax.training.progress import Progress

    progress = Progress()
    said = [0]

    def tell(done: int, total: int) -> None:
        if done * 10 // total > said[0] * 10 // total or done == total:
            progress.note(f"encoding ({what}): {done:,} of {total:,}")
        said[0] = done

    encode = functools.partial(embedder.encode, batch_size=chosen.batch_size, dimensions=chosen.dimensions)
    return evaluate(encode, subsets, progress=tell, **suite)
