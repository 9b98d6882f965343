"""A run's weights as a model, and the published weights that it began with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from ega_jax.errors import BadInputError
from ega_jax.models.name_table import slots_of
from ega_jax.models.safetensors_files import Tensor, open_tensors
from ega_jax.models.weights import match
from ega_jax.training.checkpoint import Checkpoints
from ega_jax.training.config import MeshSettings, TrainConfig, from_json
from ega_jax.training.setup import MODEL, Setup, make_setup
from ega_jax.training.state import restore_parameters


class TrainedRun(NamedTuple):
    """What a run has learned.

    Attributes:
      directory: of the run.
      config: its settings.
      setup: its model, processor and mesh.
      model: with the weights of `step`, adapters not merged.
      step: of the checkpoint: the best, or the newest where none was validated.
    """

    directory: Path
    config: TrainConfig
    setup: Setup
    model: Any
    step: int


def read_run(directory: Path, base: Path | None = None) -> TrainedRun:
    """Reads a run.

    Args:
      directory: of the run.
      base: where the weights that it began with are now, if they were moved.

    Raises:
      BadInputError: it is none, has no checkpoint yet, or one that is damaged.
    """
    if not (directory / MODEL).is_dir():
        is_model = (directory / "config.json").is_file()
        told = "; a model directory needs no conversion: transformers reads it" if is_model else ""
        raise BadInputError(f"{directory}: not a run directory (it has no {MODEL}/){told}")
    config = dataclasses.replace(from_json(directory / "config.json"), mesh=MeshSettings())
    if base is not None and config.model.weights is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=base))
    setup = make_setup(config, directory / MODEL)
    with Checkpoints(directory / "checkpoints", config.checkpoint, reading=True) as checkpoints:
        step = checkpoints.best
        if step is None:
            raise BadInputError(f"{directory}: has no checkpoint yet; let it train, or start it again")
        parameters = restore_parameters(config, setup, checkpoints, step, exact=True)
    return TrainedRun(directory, config, setup, setup.functional.merge(parameters), step)


def base_tensors(run: TrainedRun, base: Path | None) -> dict[str, Tensor]:
    """The tensors of the weights that a run began with, by canonical name; empty if these were random.

    Args:
      run: names the directory in its settings.
      base: where the directory is now, if it was moved.

    Raises:
      BadInputError: it is gone, or holds another model.
    """
    directory = base or run.config.model.weights
    if directory is None:
        return {}
    if not directory.is_dir():
        raise BadInputError(
            f"{directory}: the weights that the run began with are not there, and tensors that were not trained (the "
            "head) are copied from them; put them back, or give --base DIR"
        )
    return match(open_tensors(directory), slots_of(run.model), run.model.names, directory)
