"""The command line: `ega-jax COMMAND ...`, also `python -m ega_jax`.

Exit codes: 0 done; 1 it failed; 2 bad usage or bad input, told in one line; 75 stopped in good order by a signal, to be
started again. Progress goes to stderr, results to stdout and to named files.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

try:
    import tyro
    from rich.console import Console
except ModuleNotFoundError as error:  # the base install holds the losses alone
    print(
        f"ega-jax: the command line needs more than the losses ({error}): pip install 'ega-jax[train]'", file=sys.stderr
    )
    sys.exit(2)

from ega_jax.data.directory import GLYPHS
from ega_jax.errors import BadInputError
from ega_jax.training.config import TrainConfig, from_json, load_experiment

if TYPE_CHECKING:
    from ega_jax.data.mmeb import BadRecords
    from ega_jax.data.records import EvalSubset
    from ega_jax.embedder import Embedder
    from ega_jax.evaluation import Results
    from ega_jax.models.functional import Parameters
    from ega_jax.training.setup import Setup

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 75

OnBadRecord = Literal["error", "skip"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return DONE if arguments else BAD_INPUT
    name, *rest = arguments
    if name not in _COMMANDS:
        near = difflib.get_close_matches(name, _COMMANDS, n=1)
        _say(f"unknown command {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; see ega-jax --help"))
        return BAD_INPUT
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _COMMANDS[name](rest)
    except BadInputError as error:
        _say(str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        _say("interrupted; start the same command again to go on")
        return STOPPED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _say(f"the disk is full ({error.filename or 'while writing'}); make room and start the same command again")
        return FAILED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Until the training loop takes over, which saves first: files are written whole or not at all, so leaving is safe.
    raise KeyboardInterrupt


# --------------------------------------------------------------------------------------------------------------- train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train an embedder, from its last checkpoint if there is one.

    ega-jax train configs/glyphs.py --run-dir runs/demo

    ega-jax train configs/glyphs.py --data.directory my_data --data.on-bad-record skip --steps 2000
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    run_dir: Path
    """Where everything of the run goes."""


def train_command(arguments: Sequence[str]) -> int:
    """Trains an experiment: a Python file that binds `config = TrainConfig(...)`."""
    from ega_jax.data.directory import data_directory
    from ega_jax.data.mmeb import find_subsets, read_train
    from ega_jax.training.progress import Progress
    from ega_jax.training.train import TrainingError, train

    path, rest = _first_positional(arguments, "a config file, such as configs/glyphs.py")

    default: Any = tyro.MISSING  # only help is asked for
    if path is not None:
        default = Train(config=load_experiment(path), run_dir=Path("runs") / path.stem)
    chosen = tyro.cli(Train, args=rest, default=default, prog="ega-jax train CONFIG")
    config = chosen.config

    progress = Progress()
    directory = data_directory(config.data.directory, config.seed)
    found = [info.name for info in find_subsets(directory, "train")]
    names = _select(found, config.data.subsets, directory)
    if absent := sorted(set(config.data.weights) - set(found)):
        progress.note(f"data.weights names subsets that {directory} does not have: {', '.join(absent)}")
    subsets = [
        read_train(directory, name, on_bad_record=config.data.on_bad_record, verify_images=_verify(config))
        for name in names
    ]
    for subset in subsets:
        _tell_skipped(subset.info.name, subset.skipped)
    if not any(map(len, subsets)):
        raise BadInputError(f"{directory}: no training rows; expected DIR/<subset>/original*.parquet or .jsonl")
    progress.note(f"{sum(map(len, subsets)):,} rows of {len(subsets)} subsets in {directory}")
    try:
        summary = train(
            config,
            chosen.run_dir,
            [subset for subset in subsets if len(subset)],
            validate=_validator(directory, names, config),
            progress=progress,
        )
    except TrainingError as error:
        _say(str(error))
        return FAILED
    if summary.stopped_by:
        _say(f"stopped by {summary.stopped_by} after step {summary.steps}; start the same command again to go on")
        return STOPPED
    print(f"trained {summary.steps} steps: {chosen.run_dir}")
    return DONE


def _verify(config: TrainConfig) -> Literal["path", "header", "decode"]:
    """What images are held to: the cache of the embedded data has checked itself."""
    return "path" if config.data.directory == GLYPHS else config.data.verify_images


def _validator(
    directory: Path, names: Sequence[str], config: TrainConfig
) -> Callable[[Setup, Parameters], Mapping[str, float]] | None:
    """What `train` calls to score weights on the validation rows, or None where there are none."""
    from ega_jax.data.mmeb import find_subsets, read_eval
    from ega_jax.embedder import Embedder
    from ega_jax.evaluation import evaluate
    from ega_jax.training.train import SCORE

    held_out = [info.name for info in find_subsets(directory, "validation") if info.name in names]
    if not held_out or config.validation.every is None:
        return None
    subsets = [
        read_eval(directory, name, "validation", on_bad_record=config.data.on_bad_record, verify_images=_verify(config))
        for name in held_out
    ]
    embedders: list[Embedder] = []

    def validate(setup: Setup, parameters: Parameters) -> Mapping[str, float]:
        if not embedders:
            embedders.append(Embedder.of(setup, parameters))
        embedder = embedders[0].with_parameters(parameters)
        results = evaluate(lambda sides: embedder.encode(sides, batch_size=config.validation.batch_size), subsets)
        scores = {f"eval/{subset.name}": subset.scores.hit_at_1 for subset in results.subsets}
        return {SCORE: results.means["all"].scores.hit_at_1, **scores}

    return validate


# ---------------------------------------------------------------------------------------------------------------- eval


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
    untrained: bool = True
    """Score the weights that the run started from too, for comparison."""
    on_bad_record: OnBadRecord = "error"
    """A row that cannot be used stops the evaluation, or is counted, reported and left out."""
    output: Path | None = None
    """Where results.json goes; by default the run directory, which gets its report.html too."""


def eval_command(arguments: Sequence[str]) -> int:
    """Scores a run, writes results.json and report.html, prints the table."""
    from ega_jax.data.directory import data_directory
    from ega_jax.data.mmeb import find_subsets, read_eval
    from ega_jax.embedder import Embedder
    from ega_jax.evaluation import NonFiniteEmbeddingError, results_table
    from ega_jax.evaluation.report import write_report

    chosen = tyro.cli(Eval, args=arguments, prog="ega-jax eval")
    config = from_json(chosen.run / "config.json") if (chosen.run / "model").is_dir() else None
    name = chosen.data or (config.data.directory if config else None)
    output = chosen.output or (chosen.run if config else None)
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
        for subset in _select(found, chosen.subsets, directory)
    ]
    for subset in subsets:
        _tell_skipped(subset.info.name, subset.skipped)
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
        _say(f"{error}; the weights have diverged, or the wrong ones were loaded")
        return FAILED
    path = results.save(output)
    Console().print(results_table(results, baseline))
    _say(f"wrote {path}")
    if config is not None:
        _say(f"wrote {write_report(output)}")
    return DONE


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

    return evaluate(lambda sides: embedder.encode(sides, batch_size=chosen.batch_size), subsets, progress=tell, **suite)


# -------------------------------------------------------------------------------------------------------------- report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html of a run from what lies in its directory.

    ega-jax report runs/demo
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""


def report_command(arguments: Sequence[str]) -> int:
    """Writes the report of each run."""
    from ega_jax.evaluation.report import write_report

    chosen = tyro.cli(Report, args=arguments, prog="ega-jax report")
    if not chosen.runs:
        raise BadInputError("give at least one run directory")
    for run_dir in chosen.runs:
        if not (run_dir / "config.json").is_file():
            raise BadInputError(f"{run_dir}: not a run directory (it has no config.json)")
        print(write_report(run_dir))
    return DONE


# -------------------------------------------------------------------------------------------------------------- shared


def _first_positional(arguments: Sequence[str], what: str) -> tuple[Path | None, list[str]]:
    """The leading path, and the rest; None where help is asked for without one."""
    if arguments and not arguments[0].startswith("-"):
        return Path(arguments[0]), list(arguments[1:])
    if "--help" in arguments or "-h" in arguments:
        return None, ["--help"]
    raise BadInputError(f"give {what} first")


def _select(found: Sequence[str], wanted: Sequence[str], directory: Path) -> list[str]:
    """The wanted subsets of those found, all if none is named."""
    if not found:
        raise BadInputError(
            f"{directory}: no subsets with such a split; expected DIR/<subset>/<split>*.parquet or .jsonl"
        )
    if missing := [name for name in wanted if name not in found]:
        near = difflib.get_close_matches(missing[0], found, n=1)
        raise BadInputError(
            f"{directory}: no subset {missing[0]!r}"
            + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(found)}")
        )
    return list(wanted or found)


def _tell_skipped(name: str, skipped: BadRecords) -> None:
    if str(skipped):
        _say(f"{name}: {skipped}")


def _say(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"ega-jax: {message}")


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "eval": eval_command,
    "report": report_command,
}

_USAGE = """\
usage: ega-jax COMMAND ...

  train CONFIG [--run-dir DIR] [--FIELD VALUE ...]   train an embedder, or go on with it
  eval RUN [--data DIR]                              score it as MMEB does; writes results.json and report.html
  report RUN [RUN ...]                               write report.html again

ega-jax COMMAND --help tells the rest."""
