"""`ega-jax eval`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from ega_jax.commands.common import DONE, FAILED, OnBadRecord, require_positive, say, select, tell_skipped
from ega_jax.data.directory import GLYPHS
from ega_jax.errors import BadInputError
from ega_jax.training.config import from_json
from ega_jax.training.distributed import DistributedError, Processes, first_alone, from_first, join

if TYPE_CHECKING:
    from ega_jax.data.mmeb import ReadEvalSubset
    from ega_jax.embedder import Embedder
    from ega_jax.evaluation import Results
    from ega_jax.training.config import TrainConfig

VECTORS = "vectors"
"""Where a suite's vectors are kept, in the output directory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    """Score a run as MMEB does: hit@1 in each query's own pool, ties against us.

    ega-jax eval runs/demo

    ega-jax eval runs/mine --suite mmeb --data MMEB-eval

    ega-jax eval runs/mine --data my_data --on-bad-record skip
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A run directory, or a model directory."""
    data: str | None = None
    """A directory in MMEB's schema, or "glyphs"; by default what the run was trained on."""
    suite: Literal["mmeb"] | None = None
    """All 36 datasets of MMEB, or none: what is missing or short is an error. Adds tables beside published scores and
    MMEB's own score files."""
    partial: bool = False
    """Score what there is of the suite, and label the result as partial wherever it stands."""
    images: Path | None = None
    """What image paths are relative to; by default the data directory."""
    split: Literal["test", "validation"] = "test"
    subsets: tuple[str, ...] = ()
    """Names of the subsets to score; empty takes all."""
    batch_size: int = 128
    """Items encoded at once."""
    dimensions: int | None = None
    """Score vectors cut to their first so many entries and normalised again (Matryoshka); by default whole ones."""
    untrained: bool = True
    """Score the weights that the run started from too, for comparison; not with a suite."""
    on_bad_record: OnBadRecord = "error"
    """A row that cannot be used stops the evaluation, or is counted, reported and left out."""
    output: Path | None = None
    """Where results.json goes; by default the run directory, which gets its report.html too, or
    dimensions_N in it for --dimensions N."""
    cache: Path | None = None
    """A directory that keeps vectors by content, so that a killed evaluation goes on; by default vectors in the output
    directory for a suite, and none without one."""
    save_every: int = 1024
    """Items encoded between two writes to the cache: what a kill costs at most."""
    processes: Processes = dataclasses.field(default_factory=Processes)
    """How several processes become one evaluation; one alone needs nothing."""


def run(arguments: Sequence[str]) -> int:
    """Scores a run, writes results.json and report.html, prints the table."""
    chosen = tyro.cli(Eval, args=arguments, prog="ega-jax eval")
    require_positive(chosen, "batch_size", "save_every")
    config = from_json(chosen.run / "config.json") if (chosen.run / "model").is_dir() else None
    name = chosen.data or (config.data.directory if config else None)
    output = chosen.output or (_output_of(chosen) if config else None)
    if name is None or output is None:
        raise BadInputError(f"{chosen.run} is not a run directory: to score a model give --data DIR and --output DIR")
    if chosen.suite and name == GLYPHS:
        raise BadInputError("--suite mmeb needs --data DIR: the run's own data is the embedded one")
    if chosen.partial and not chosen.suite:
        raise BadInputError("--partial is about a suite: add --suite mmeb")
    try:
        join(chosen.processes)
        return _evaluate(chosen, config, name, output)
    except DistributedError as error:
        say(str(error))
        return FAILED


def _evaluate(chosen: Eval, config: TrainConfig | None, name: str, output: Path) -> int:
    import jax

    from ega_jax.embedder import Embedder
    from ega_jax.evaluation import results_table
    from ega_jax.evaluation.report import write_report
    from ega_jax.evaluation.suite_files import write_suite_files

    subsets, suite = _read(chosen, config, name)
    leads = jax.process_index() == 0
    embedder = Embedder.from_pretrained(chosen.run)
    embedder.check(chosen.dimensions)
    baseline = None
    if config is not None and chosen.untrained and not chosen.suite:
        start = embedder.with_parameters(Embedder.from_pretrained(chosen.run, untrained=True).parameters)
        baseline = _score(start, subsets, chosen, suite, output, "before training")
    results = _score(embedder, subsets, chosen, suite, output, "trained")
    if not leads:
        return DONE
    if baseline is not None:
        baseline.save(output, "results_untrained")
    path = results.save(output)
    Console().print(results_table(results, baseline))
    written = [path]
    if chosen.suite:
        written += write_suite_files(results, output, chosen.run.resolve().name)
    if config is not None:
        written.append(write_report(output))
    for path in written:
        say(f"wrote {path}")
    return DONE


def _read(chosen: Eval, config: TrainConfig | None, name: str) -> tuple[list[ReadEvalSubset], dict[str, Any]]:
    """The subsets, and what `evaluate` is to know of their suite."""
    from ega_jax.data.directory import data_directory
    from ega_jax.data.mmeb import SUBSETS, find_subsets, read_eval
    from ega_jax.evaluation.suite import require_whole, shortfalls

    with first_alone("data"):
        directory = data_directory(name, config.seed if config else 0)
    found = [info.name for info in find_subsets(directory, chosen.split)]
    names = select(found, chosen.subsets, directory)
    if chosen.suite:
        names = [name for name in names if name in SUBSETS]
        require_whole(directory, SUBSETS.keys() - set(names), {}, partial=chosen.partial)
    subsets = []
    for subset in names:
        subsets.append(
            read_eval(
                directory,
                subset,
                chosen.split,
                on_bad_record=chosen.on_bad_record,
                verify_images="path" if name == GLYPHS else "decode",
                image_directory=chosen.images,
            )
        )
        tell_skipped(subset, subsets[-1].skipped)
    if chosen.suite:
        short = shortfalls(subsets)
        require_whole(directory, (), short, partial=chosen.partial)
        return subsets, {"suite": chosen.suite, "expected": SUBSETS, "short": short}
    # MMEB's 36 are known by their names; of the embedded data all subsets are expected.
    return subsets, {"suite": GLYPHS, "expected": found} if name == GLYPHS else {}


def _output_of(chosen: Eval) -> Path:
    """Where a run's scores go: those of cut vectors must not replace those of whole ones."""
    return chosen.run if chosen.dimensions is None else chosen.run / f"dimensions_{chosen.dimensions}"


def _score(
    embedder: Embedder,
    subsets: Sequence[ReadEvalSubset],
    chosen: Eval,
    suite: dict[str, Any],
    output: Path,
    what: str,
) -> Results:
    import jax

    from ega_jax.embedder import shortened
    from ega_jax.environment import environment
    from ega_jax.evaluation import evaluate
    from ega_jax.evaluation.cached_encoder import CachedEncoder
    from ega_jax.evaluation.content import subset_fingerprint
    from ega_jax.evaluation.resampling import with_intervals
    from ega_jax.evaluation.vector_cache import VectorCache
    from ega_jax.training.progress import Progress

    leads = jax.process_index() == 0
    directory = chosen.cache or (output / VECTORS if chosen.suite else None)
    progress = Progress(silent=not leads)
    told = _Told(lambda done, total: progress.note(f"encoding ({what}): {done:,} of {total:,}"))
    cached = CachedEncoder(
        lambda sides: embedder.encode(sides, batch_size=chosen.batch_size),
        embedder.width,
        VectorCache(directory, embedder.facts, embedder.width) if directory and leads else None,
        leads=leads,
        share=from_first,
        items_per_shard=chosen.save_every,
        progress=told.advance,
    )
    results = evaluate(lambda sides: shortened(cached(sides), chosen.dimensions), subsets, progress=told.tell, **suite)
    if cached.reused:
        progress.note(f"{cached.reused:,} items came from {directory}, {cached.encoded:,} were encoded")
    if not leads:
        return results
    items = [subset_fingerprint(subset) for subset in subsets]
    named = [dataclasses.replace(found, items=name) for found, name in zip(results.subsets, items, strict=True)]
    return with_intervals(dataclasses.replace(results, subsets=tuple(named), environment=environment()))


class _Told:
    """Says how far encoding is, at every tenth."""

    def __init__(self, note: Callable[[int, int], object]) -> None:
        self._note, self._said, self._done, self._total = note, 0, 0, 1

    def tell(self, done: int, total: int) -> None:
        """So many items are done."""
        self._done, self._total = done, total
        self._say()

    def advance(self, items: int) -> None:
        """So many more are."""
        self._done = min(self._done + items, self._total)
        self._say()

    def _say(self) -> None:
        tenth = 10 * self._done // self._total
        if tenth > self._said:
            self._note(self._done, self._total)
            self._said = tenth
