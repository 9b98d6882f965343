"""`ega-jax train`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import tyro

from ega_jax.commands.common import DONE, FAILED, STOPPED, first_positional, say, select, tell_skipped
from ega_jax.data.directory import GLYPHS, data_directory
from ega_jax.data.mmeb import find_subsets, read_eval, read_train
from ega_jax.embedder import Embedder
from ega_jax.errors import BadInputError
from ega_jax.evaluation import evaluate
from ega_jax.evaluation.amplified import LOSS_OPTIONS, amplified
from ega_jax.evaluation.details import AMPLIFIED
from ega_jax.files import write_whole
from ega_jax.losses import ega_loss
from ega_jax.training.config import TrainConfig, load_experiment, to_json
from ega_jax.training.distributed import DistributedError, Processes, first_alone, join, require_agreement
from ega_jax.training.finite import TrainingError
from ega_jax.training.interrupt import Interrupt
from ega_jax.training.progress import Progress
from ega_jax.training.train import SCORE, train
from ega_jax.training.watchdog import Watchdog

if TYPE_CHECKING:
    from ega_jax.data.pipeline import TrainingBatches
    from ega_jax.evaluation.encoding import Encode
    from ega_jax.models.functional import Parameters
    from ega_jax.training.setup import Setup

    EncodeWith = Callable[[Setup, Parameters], Encode]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train an embedder, from its last checkpoint if there is one.

    ega-jax train configs/glyphs.py --run-dir runs/demo

    ega-jax train configs/glyphs.py --data.directory my_data --data.on-bad-record skip --steps 2000
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    run_dir: Path
    """Where everything of the run goes."""
    processes: Processes = dataclasses.field(default_factory=Processes)
    """How several processes become one run; one alone needs nothing."""
    profile_steps: str | None = None
    """FIRST:LAST, such as 10:13: a profiler's trace of these steps goes into the run directory's folder `profile`."""


def run(arguments: Sequence[str]) -> int:
    """Trains an experiment: a Python file that binds `config = TrainConfig(...)`."""
    path, rest = first_positional(arguments, "a config file, such as configs/glyphs.py")

    default: Any = tyro.MISSING  # only help is asked for
    if path is not None:
        default = Train(config=load_experiment(path), run_dir=Path("runs") / path.stem)
    chosen = tyro.cli(Train, args=rest, default=default, prog="ega-jax train CONFIG")
    config = chosen.config

    try:
        join(chosen.processes)
        require_agreement({"the config": to_json(config), "the number of devices": str(jax.local_device_count())})
        with Watchdog(chosen.processes.stalled_after) as watchdog:
            return _train(config, chosen.run_dir, watchdog, chosen.profile_steps)
    except (DistributedError, TrainingError) as error:
        say(str(error))
        return FAILED


def _train(config: TrainConfig, run_dir: Path, watchdog: Watchdog, profile_steps: str | None) -> int:
    progress = Progress(silent=jax.process_index() != 0)
    interrupt = Interrupt(
        lambda message: progress.note(
            f"{message}; now {watchdog.doing}. Killed before that is done, the run goes on from its last checkpoint"
        )
    )
    with first_alone("data"):
        directory = data_directory(config.data.directory, config.seed)
    found = [info.name for info in find_subsets(directory, "train")]
    names = select(found, config.data.subsets, directory)
    if absent := sorted(set(config.data.weights) - set(found)):
        progress.note(f"data.weights names subsets that {directory} does not have: {', '.join(absent)}")
    subsets = [
        read_train(directory, name, on_bad_record=config.data.on_bad_record, verify_images=images_held_to(config))
        for name in names
    ]
    for subset in subsets:
        tell_skipped(subset.info.name, subset.skipped)
    if not any(map(len, subsets)):
        raise BadInputError(f"{directory}: no training rows; expected DIR/<subset>/original*.parquet or .jsonl")
    progress.note(f"{sum(map(len, subsets)):,} rows of {len(subsets)} subsets in {directory}")
    encode_with = _encoders(config, interrupt, watchdog)
    summary = train(
        config,
        run_dir,
        [subset for subset in subsets if len(subset)],
        validate=_validator(directory, names, config, encode_with),
        observe=_observer(run_dir, config, encode_with),
        progress=progress,
        interrupt=interrupt,
        watchdog=watchdog,
        profile_steps=profile_steps,
    )
    if summary.stopped_by:
        say(f"stopped by {summary.stopped_by} after step {summary.steps}; start the same command again to go on")
        return STOPPED
    if jax.process_index() == 0:
        print(f"trained {summary.steps} steps: {run_dir}")
    return DONE


def images_held_to(config: TrainConfig) -> Literal["path", "header", "decode"]:
    """What images are held to: the cache of the embedded data has checked itself."""
    return "path" if config.data.directory == GLYPHS else config.data.verify_images


def _encoders(config: TrainConfig, interrupt: Interrupt, watchdog: Watchdog) -> EncodeWith:
    """What gives weights as a function from sides to vectors; all share their compiled programs."""
    made: list[Embedder] = []

    def came_further(items: int) -> None:
        watchdog.alive("validating")
        interrupt.leave_if_requested()

    def encode_with(setup: Setup, parameters: Parameters) -> Encode:
        if not made:
            made.append(Embedder.of(setup, parameters))
        embedder = made[0].with_parameters(parameters)
        return lambda sides: embedder.encode(sides, batch_size=config.validation.batch_size, progress=came_further)

    return encode_with


def _validator(
    directory: Path, names: Sequence[str], config: TrainConfig, encode_with: EncodeWith
) -> Callable[[Setup, Parameters], Mapping[str, float]] | None:
    """What `train` calls to score weights on the validation rows, or None where there are none."""
    held_out = [info.name for info in find_subsets(directory, "validation") if info.name in names]
    if not held_out or config.validation.every is None:
        return None
    subsets = [
        read_eval(
            directory, name, "validation", on_bad_record=config.data.on_bad_record, verify_images=images_held_to(config)
        )
        for name in held_out
    ]

    def validate(setup: Setup, parameters: Parameters) -> Mapping[str, float]:
        results = evaluate(encode_with(setup, parameters), subsets)
        scores = {f"eval/{subset.name}": subset.scores.hit_at_1 for subset in results.subsets}
        return {SCORE: results.means["all"].scores.hit_at_1, **scores}

    return validate


def _observer(
    run_dir: Path, config: TrainConfig, encode_with: EncodeWith
) -> Callable[[Setup, Parameters, TrainingBatches, int], None]:
    """What `train` calls after a validation: keeps the pairs that the loss amplified most of late."""

    def observe(setup: Setup, parameters: Parameters, batches: TrainingBatches, done: int) -> None:
        encode = encode_with(setup, parameters)
        told = amplified(encode, loss_stats, batches, done, dataclasses.asdict(config.loss))
        if jax.process_index() == 0:
            write_whole(run_dir / AMPLIFIED, told)

    return observe


@functools.partial(jax.jit, static_argnames=LOSS_OPTIONS)
def loss_stats(queries: Any, targets: Any, labels: Mapping[str, Any], **options: Any) -> Any:
    """What the loss says of each row of a batch of unit vectors."""
    return ega_loss(queries, targets, **labels, **options, normalize=False, return_stats=True)[1]
