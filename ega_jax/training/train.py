"""The training loop, top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from ega_jax.data.mixture import sample_rows
from ega_jax.data.pipeline import TrainingBatches, global_groups, prefetched
from ega_jax.data.records import TrainRows
from ega_jax.environment import ENVIRONMENT, environment, record_environment
from ega_jax.errors import BadInputError
from ega_jax.files import write_whole
from ega_jax.training.checkpoint import Checkpoints
from ega_jax.training.config import TrainConfig, from_json, to_json
from ega_jax.training.distributed import first_alone
from ega_jax.training.finite import PREFIX, FiniteWatch
from ega_jax.training.interrupt import Interrupt, StoppedError
from ega_jax.training.metrics import make_writers
from ega_jax.training.optimizer import make_optimizer
from ega_jax.training.progress import Progress
from ega_jax.training.roles import learning_rate_factors, role_table, roles_of
from ega_jax.training.setup import MODEL, Setup, make_setup, write_model_directory
from ega_jax.training.sharding import batch_devices, local_groups
from ega_jax.training.speed import StepClock, flops_per_token
from ega_jax.training.state import abstract_state_of, first_state, restore_state, saved_state
from ega_jax.training.step import State, compiled_train_step, to_global
from ega_jax.training.trace import Trace
from ega_jax.training.watchdog import Watchdog

if TYPE_CHECKING:
    from ega_jax.models.functional import Parameters

Validate = Callable[[Setup, "Parameters"], Mapping[str, float]]
"""Scores weights: metric names to values; "eval/score" is what the best checkpoint is chosen by, the higher the
better."""

Observe = Callable[[Setup, "Parameters", TrainingBatches, int], object]
"""Looks at the weights after a validation, or at the end of a run without any: the batches of the run, and how many
steps are done. Every process calls it."""

SCORE = "eval/score"

MAY_CHANGE = ("data.threads", "data.prefetch", "optimizer.on_non_finite")
"""Settings that change nothing but the speed, or what is done when something fails: a run may go on with others."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
      steps: updates done in all.
      stopped_by: the signal that ended it early, or None where it is complete.
      metrics: the last ones logged.
    """

    steps: int
    stopped_by: str | None
    metrics: Mapping[str, float]


def train(
    config: TrainConfig,
    run_dir: Path,
    subsets: Sequence[TrainRows],
    *,
    validate: Validate | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
    interrupt: Interrupt | None = None,
    watchdog: Watchdog | None = None,
    profile_steps: str | None = None,
) -> Summary:
    """Trains, from the last checkpoint in `run_dir` if there is one.

    Args:
      config: the experiment.
      run_dir: where everything of the run goes; the same directory and config go on where they stopped.
      subsets: the training rows.
      validate: called every `config.validation.every` steps and at the end.
      observe: called after each validation, or where there is none, after the last step.
      progress: shows how far it is.
      interrupt: notes signals, on which the run saves and ends; `validate` and `observe` may ask it too, and raise its
        StoppedError.
      watchdog: is told at every step that the run is alive.
      profile_steps: "FIRST:LAST": these steps are traced into `run_dir/profile`.

    Raises:
      BadInputError: the data, the config or the run directory is at fault; says which and what to do.
      TrainingError: the loss, the gradient or the update is not finite; names the step, its rows and the likely module.
    """
    progress, interrupt, watchdog = progress or Progress(), interrupt or Interrupt(), watchdog or Watchdog()
    trace = Trace(profile_steps, run_dir / "profile", progress.note)
    if config.data.max_rows_per_subset is not None:
        subsets = [
            subset.take(sample_rows(len(subset), config.data.max_rows_per_subset, config.seed, subset.info.name))
            for subset in subsets
        ]

    # ---------------------------------------------------------------- the run directory: new, or the same experiment
    with first_alone("the run directory"):
        claim_run_directory(config, run_dir)
        if not (run_dir / MODEL).exists():
            progress.note("training a tokenizer" if config.model.weights is None else "reading the model directory")
            write_model_directory(config, run_dir / MODEL, lambda: texts_of(subsets))
    setup = make_setup(config, run_dir / MODEL)
    functional, mesh = setup.functional, setup.mesh

    # ---------------------------------------------------------------- data: step -> batch, prepared ahead
    groups = global_groups(batch_devices(mesh), config.data.batch_size, config.data.chunk_size)
    batches = TrainingBatches(
        subsets,
        setup.processor,
        setup.buckets,
        steps=config.steps,
        epochs=config.epochs,
        batch_size=config.data.batch_size,
        sub_batch_size=config.data.sub_batch_size,
        mixing_exponent=config.data.mixing_exponent,
        negatives_per_query=config.data.negatives_per_query,
        max_programs=config.data.max_programs,
        weights=[config.data.weights.get(subset.info.name, 1.0) for subset in subsets],
        seed=config.seed,
        groups=groups,
        local_groups=local_groups(mesh, groups),
        progress=progress.counter("indexing rows", sum(map(len, subsets))),
    )
    progress.note(batches.padding)

    # ---------------------------------------------------------------- optimizer and update
    optimizer, learning_rate = make_optimizer(config.optimizer, len(batches))
    abstract_state = abstract_state_of(config, setup)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    progress.note(describe_roles(config, setup, abstract_state))
    update = compiled_train_step(config, functional, optimizer, mesh, shardings)

    # ---------------------------------------------------------------- state: a checkpoint, given weights, or random
    checkpoints = Checkpoints(run_dir / "checkpoints", config.checkpoint)
    resumed_from = checkpoints.newest_whole(progress.note)
    if resumed_from is not None:
        progress.note(f"going on from the checkpoint of step {resumed_from}")
        state = restore_state(config, setup, checkpoints)
    else:
        state = first_state(config, setup)
    checkpoints.require_space(saved_state(config, state))
    writers = make_writers(run_dir, config.writers, resumed_from) if jax.process_index() == 0 else []

    # ---------------------------------------------------------------- the loop
    began_at = done = int(state["step"])
    if jax.process_index() == 0 and done < len(batches):
        record_environment(run_dir / ENVIRONMENT, done, len(batches), environment(mesh))
    iterator = prefetched(batches, start=done, threads=config.data.threads, prefetch=config.data.prefetch)
    logged: dict[str, float] = {}
    skipped = 0
    watch = FiniteWatch(config.optimizer, batches, run_dir / "non_finite.jsonl", progress.note)
    clock = StepClock(
        run_dir,
        resumed=resumed_from is not None,
        batch_size=config.data.batch_size,
        flops_per_token=flops_per_token(state),
    )
    programs: set[tuple] = set()
    before = None

    def validated(state: State) -> tuple[float | None, str | None]:
        """The validation score of these weights, or None and the signal that came in between."""
        assert validate is not None
        watchdog.alive(f"validating after step {done}")
        parameters = {**state["trained"], **state["frozen"]}
        try:
            with progress.pause("validating"), clock.paused():
                scores = validate(setup, parameters)
                if observe is not None:
                    observe(setup, parameters, batches, done)
        except StoppedError as stopped:
            return None, str(stopped)
        write(writers, done, scores)
        return scores[SCORE], None

    def save(state: State, score: float | None) -> None:
        watchdog.alive(f"saving after step {done}")
        with clock.paused():
            checkpoints.save(done, saved_state(config, state), score)
        if jax.process_index() == 0:
            clock.save()

    with interrupt, checkpoints, trace, progress.steps(done, len(batches)) as advance:
        stopped_by = interrupt.requested()
        validating = validate is not None and due(done, config.validation.every, done == len(batches))
        if resumed_from is not None and validating and not checkpoints.scored(done) and stopped_by is None:
            # A signal cut it short.
            score, stopped_by = validated(state)
            if score is not None:
                save(state, score)
        while done < len(batches) and stopped_by is None:
            watchdog.alive(f"waiting for the batch of step {done + 1}")
            with clock.waiting_for_data(while_running=before):
                batch = next(iterator)
            done += 1
            program = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
            new = program not in programs
            programs.add(program)
            watchdog.alive(f"compiling step {done}" if new else f"in step {done}")
            trace.before(done)
            with (
                clock.paused() if new else clock.spent("host"),
                jax.profiler.StepTraceAnnotation("step", step_num=done),
            ):
                state, metrics = update(state, to_global(batch, mesh))
            watchdog.alive(f"in step {done}")
            # One step runs while the next is prepared, and no more: batches on the device are memory.
            with clock.spent("device"):
                jax.block_until_ready(before)
            before = metrics["loss"]
            trace.after(done, before)
            clock.stepped(batch)
            watch.add(done, metrics)
            last = done == len(batches)
            logging = due(done, config.log_every, last)
            validating = validate is not None and due(done, config.validation.every, last)
            if logging or validating:
                with clock.spent("device"):
                    skipped += watch.look()
            if logging:
                values = {name: float(value) for name, value in metrics.items() if not name.startswith(PREFIX)}
                values["skipped_steps"] = skipped
                skipped = 0
                logged = {**values, "lr": float(learning_rate(done - 1)), **clock.line()}
                write(writers, done, logged)
            score = None
            if validating:
                score, stopped_by = validated(state)
            if not last and stopped_by is None:
                stopped_by = interrupt.requested()
            if validating or stopped_by is not None or due(done, config.checkpoint.every, last):
                # NOTE: after the metrics of this step, so that what is saved has been told.
                skipped += watch.look()
                save(state, score)
            advance(done, logged)
        if validate is None and observe is not None and stopped_by is None and done > began_at:
            watchdog.alive("looking at pairs")
            # A signal has nothing left to save.
            with contextlib.suppress(StoppedError), progress.pause("looking at pairs"):
                observe(setup, {**state["trained"], **state["frozen"]}, batches, done)
    for writer in writers:
        writer.close()
    iterator.close()
    return Summary(done, stopped_by, logged)


def claim_run_directory(config: TrainConfig, run_dir: Path) -> None:
    """Writes `config.json`, or checks that the one that is there says the same.

    Raises:
      BadInputError: the directory holds another experiment; names the settings that differ.
    """
    path = run_dir / "config.json"
    if path.exists():
        before, now = (json.loads(text) for text in (to_json(from_json(path)), to_json(config)))
        for settings in (before, now):
            for name in MAY_CHANGE:
                section, field = name.split(".")
                settings[section].pop(field)
        if changed := list(_differences(before, now)):
            raise BadInputError(
                f"{run_dir} holds another experiment: {'; '.join(changed)}. Choose another --run-dir, or delete it"
            )
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    write_whole(path, to_json(config))


def texts_of(subsets: Sequence[TrainRows]) -> Iterator[str]:
    """Every text of the training rows."""
    for subset in subsets:
        for row in range(len(subset)):
            record = subset[row]
            yield from (side.text for side in (record.query, *record.positives, *record.negatives))


def describe_roles(config: TrainConfig, setup: Setup, abstract_state: State) -> str:
    """The table of what is trained and what is not, printed before anything is computed."""
    factors = learning_rate_factors(abstract_state["trained"], config.optimizer.learning_rate_factors)
    held = {**abstract_state["trained"], **abstract_state["frozen"]}
    return role_table(held, roles_of(setup.functional.parameters, config.model), factors)


def due(step: int, every: int | None, last: bool) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after this one; None is never."""
    return every is not None and (last or step % every == 0)


def write(writers: Sequence[Any], step: int, metrics: Mapping[str, float]) -> None:
    for writer in writers:
        writer.write(step, metrics)


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before:
            yield from _differences(before[key], now[key], f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} was {before} and is now {now}"
