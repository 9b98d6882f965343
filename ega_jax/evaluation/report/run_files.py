"""Reads a run directory for its report, taking what is there and noting what is not."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from ega_jax.environment import ENVIRONMENT, read_environments
from ega_jax.errors import BadInputError
from ega_jax.evaluation.details import AMPLIFIED
from ega_jax.evaluation.results import Results


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric over training: parallel steps and values; a value is None where it was not finite."""

    steps: tuple[int, ...]
    values: tuple[float | None, ...]

    @property
    def last(self) -> float | None:
        """The last finite value."""
        return next((value for value in reversed(self.values) if value is not None), None)


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run directory holds.

    Attributes:
      name: name of the directory.
      config: `config.json`, or {}.
      metrics: the series of `metrics.jsonl` by name.
      results: scores of the trained model.
      untrained: scores of the model before training.
      notes: a sentence for each thing that is missing or unreadable.
      environments: what it was trained in, the lines of `environment.jsonl`.
      amplified: `amplified.json`, or None.
    """

    name: str
    config: dict[str, Any]
    metrics: dict[str, Series]
    results: Results | None
    untrained: Results | None
    notes: tuple[str, ...]
    environments: tuple[dict[str, Any], ...] = ()
    amplified: dict[str, Any] | None = None

    @property
    def planned_steps(self) -> int | None:
        """How many steps the run is to have: a setting, or what its epochs come to."""
        planned = self.config.get("steps")
        if planned is None and self.environments:
            planned = self.environments[-1]["to_step"]
        return planned if isinstance(planned, int) else None

    @property
    def last_step(self) -> int | None:
        return max((series.steps[-1] for series in self.metrics.values()), default=None)


def read_run(run_dir: Path) -> RunFiles:
    """Reads the files of a run.

    Raises:
      BadInputError: the directory is not there, or holds none of a run's files.
    """
    if not run_dir.is_dir():
        raise BadInputError(f"{run_dir}: no such run directory")
    notes: list[str] = []
    config = _read_config(run_dir / "config.json", notes)
    metrics = _read_metrics(run_dir / "metrics.jsonl", notes)
    results = _read_results(run_dir / "results.json", notes)
    if not (config or metrics or results):
        raise BadInputError(f"{run_dir}: not a run directory (no readable config.json, metrics.jsonl or results.json)")
    untrained = _read_results(run_dir / "results_untrained.json", notes)
    environments = tuple(read_environments(run_dir / ENVIRONMENT))
    amplified = _read_amplified(run_dir / AMPLIFIED, notes)
    run = RunFiles(run_dir.resolve().name, config, metrics, results, untrained, (), environments, amplified)
    notes += _what_is_missing(run)
    return dataclasses.replace(run, notes=tuple(notes))


def _what_is_missing(run: RunFiles) -> list[str]:
    notes = []
    planned, done = run.planned_steps, run.last_step
    if not run.metrics:
        notes.append("No training metrics: metrics.jsonl is absent or empty.")
    elif planned is not None and done is not None and done < planned:
        notes.append(f"Training stopped, or still runs, at step {done:,} of {planned:,}.")
    if run.results is None:
        notes.append("Not evaluated yet: there are no scores of the trained model (results.json).")
    elif run.untrained is None:
        notes.append("No scores of the untrained model to compare with (results_untrained.json).")
    if run.results is not None and not run.results.details:
        notes.append("No details of single queries (results_details.jsonl): no gallery and no distributions.")
    return notes


def _read_config(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        notes.append("No settings: config.json is absent.")
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        notes.append(f"config.json could not be read: {error}.")
        return {}
    return config if isinstance(config, dict) else {}


def _read_results(path: Path, notes: list[str]) -> Results | None:
    if not path.exists():
        return None
    try:
        return Results.load(path)
    except (BadInputError, UnicodeDecodeError) as error:
        notes.append(f"{path.name} could not be read: {str(error).removeprefix(f'{path}: ')}.")
        return None


def _read_amplified(path: Path, notes: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if {"first_step", "last_step", "rows", "loss", "pairs"} <= told.keys():
            return told
        notes.append(f"{path.name} is not of this version: no amplified pairs are shown.")
    except (ValueError, AttributeError) as error:
        notes.append(f"{path.name} could not be read: {error}.")
    return None


def _read_metrics(path: Path, notes: list[str]) -> dict[str, Series]:
    if not path.exists():
        return {}
    by_step: dict[str, dict[int, float | None]] = {}
    bad_lines = 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            step = int(entry.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            bad_lines += 1
            continue
        for name, value in entry.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                by_step.setdefault(name, {})[step] = float(value) if math.isfinite(value) else None
            elif value is None:
                by_step.setdefault(name, {})[step] = None
    if bad_lines:
        notes.append(f"metrics.jsonl: {bad_lines} damaged line{'s' * (bad_lines > 1)} left out.")
    return {
        name: Series(tuple(sorted(values)), tuple(values[step] for step in sorted(values)))
        for name, values in by_step.items()
    }
