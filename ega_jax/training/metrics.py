"""Metrics out: `metrics.jsonl` always, TensorBoard and Weights & Biases when asked."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from ega_jax.errors import BadInputError
from ega_jax.files import write_whole

Metrics = Mapping[str, float]


class Writer(Protocol):
    """Somewhere that metrics go."""

    def write(self, step: int, metrics: Metrics) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl`: one object a line, `step` first.

    When a run goes on from a checkpoint, the lines after its step are cut: they are about to be written again, and a
    file in which a step stands twice is one nobody can plot.
    """

    def __init__(self, path: Path, keep_to: int | None = None) -> None:
        """
        Args:
          path: the file; made if it is not there.
          keep_to: the last step whose lines stay; None keeps none.
        """
        kept = [] if keep_to is None else [line for line in _whole_lines(path) if json.loads(line)["step"] <= keep_to]
        write_whole(path, "".join(kept))
        self._file = path.open("a")

    def write(self, step: int, metrics: Metrics) -> None:
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """TensorBoard event files in `directory`."""

    def __init__(self, directory: Path, keep_to: int | None = None) -> None:
        from tensorboardX import SummaryWriter

        # purge_step tells TensorBoard to hide what the killed process wrote beyond it.
        self._writer = SummaryWriter(str(directory), purge_step=None if keep_to is None else keep_to + 1)

    def write(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run, named after the run directory and the same one after every restart."""

    def __init__(self, run_dir: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise BadInputError("writers: 'wandb' needs the package: pip install 'ega-jax[wandb]'") from None
        config = run_dir / "config.json"
        self._run = wandb.init(
            project="ega_jax",
            id=_wandb_id(run_dir / "wandb_id"),
            name=run_dir.name,
            dir=str(run_dir),
            config=json.loads(config.read_text()) if config.exists() else None,
            resume="allow",
        )

    def write(self, step: int, metrics: Metrics) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def make_writers(run_dir: Path, names: Iterable[str], resumed_from: int | None) -> list[Writer]:
    """The writers of a run."""
    writers: list[Writer] = [JsonLines(run_dir / "metrics.jsonl", resumed_from)]
    for name in names:
        writers.append(
            TensorBoard(run_dir / "tensorboard", resumed_from) if name == "tensorboard" else WeightsAndBiases(run_dir)
        )
    return writers


def _wandb_id(file: Path) -> str:
    """A random one, kept in the run directory."""
    if not file.exists():
        write_whole(file, secrets.token_hex(8))
    return file.read_text()


def _whole_lines(path: Path) -> list[str]:
    """The lines of the file, without one that a killed process left unfinished."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
