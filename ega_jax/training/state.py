"""The state of a run: how it begins, what of it a checkpoint keeps, and how it comes back.

Frozen weights that came from `model.weights` lie on disk already, so a checkpoint holds their digests instead of them
(a 7B trained by LoRA would write 15 GB each time to keep 160 MB). They are read from there again, and compared.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ega_jax.errors import BadInputError
from ega_jax.models.fingerprint import digests
from ega_jax.training.optimizer import make_optimizer
from ega_jax.training.roles import held_dtypes, roles_of
from ega_jax.training.setup import starting_parameters
from ega_jax.training.sharding import parameter_shardings, replicated
from ega_jax.training.step import State, initial_state, state_shardings

if TYPE_CHECKING:
    from ega_jax.models.functional import Functional, Parameters
    from ega_jax.training.checkpoint import Checkpoints
    from ega_jax.training.config import TrainConfig
    from ega_jax.training.setup import Setup

_DIGESTS = "frozen_digests"


def abstract_state_of(config: TrainConfig, setup: Setup) -> State:
    """The state of a run as shapes that also say where the arrays live."""
    return abstract_state(config, setup.functional, setup.mesh)


def abstract_state(config: TrainConfig, functional: Functional, mesh: jax.sharding.Mesh) -> State:
    """The same for a model and a mesh, whose devices need not be there."""
    roles = roles_of(functional.parameters, config.model)
    optimizer, _ = make_optimizer(config.optimizer, config.steps)
    make_state = functools.partial(initial_state, optimizer=optimizer, roles=roles)
    dtypes = held_dtypes(functional, roles, config.model)
    held = {path: jax.ShapeDtypeStruct(leaf.shape, dtypes[path]) for path, leaf in functional.parameters.items()}
    shapes = jax.eval_shape(make_state, held)
    places = state_shardings(shapes, parameter_shardings(functional, mesh), mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )


def first_state(config: TrainConfig, setup: Setup) -> State:
    """The state before the first step."""
    roles = roles_of(setup.functional.parameters, config.model)
    optimizer, _ = make_optimizer(config.optimizer, config.steps)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state_of(config, setup))
    make_state = functools.partial(initial_state, optimizer=optimizer, roles=roles)
    # Donated, so that the weights do not stand in memory twice.
    return jax.jit(make_state, out_shardings=shardings, donate_argnums=0)(starting_parameters(config, setup))


def saved_state(config: TrainConfig, state: State) -> dict[str, Any]:
    """The parts of a state that go into a checkpoint."""
    if config.model.weights is None or config.checkpoint.save_frozen:
        return state
    parts = {name: part for name, part in state.items() if name != "frozen"}
    return {**parts, _DIGESTS: digests(state["frozen"])}


def restore_state(config: TrainConfig, setup: Setup, checkpoints: Checkpoints) -> State:
    """The state of the newest checkpoint.

    Raises:
      BadInputError: the checkpoint is damaged, or the frozen weights are not those that the run began with.
    """
    abstract = abstract_state_of(config, setup)
    wanted = {name: abstract[name] for name in ("step", "trained", "optimizer")}
    restored, frozen = _restore(config, setup, checkpoints, wanted, None)
    return {**restored, "frozen": frozen}


def restore_parameters(
    config: TrainConfig, setup: Setup, checkpoints: Checkpoints, step: int | None = None, *, exact: bool = False
) -> Parameters:
    """The weights of the checkpoint of `step` (the best by default), trained, adapters and frozen.

    Args:
      config, setup, checkpoints: the run's.
      step: of the checkpoint.
      exact: frozen weights that are read from `model.weights` are float32 and not rounded to the type in which they are
        held: what is merged or exported.

    Raises:
      BadInputError: as `restore_state`.
    """
    wanted = {"trained": abstract_state_of(config, setup)["trained"]}
    step = checkpoints.best if step is None else step
    restored, frozen = _restore(config, setup, checkpoints, wanted, step, exact=exact)
    return {**restored["trained"], **frozen}


def _restore(
    config: TrainConfig,
    setup: Setup,
    checkpoints: Checkpoints,
    wanted: Mapping[str, Any],
    step: int | None,
    *,
    exact: bool = False,
) -> tuple[dict[str, Any], Parameters]:
    """The wanted parts, and the frozen weights."""
    abstract = abstract_state_of(config, setup)["frozen"]
    if config.model.weights is None or config.checkpoint.save_frozen:
        restored = checkpoints.restore({**wanted, "frozen": abstract}, step)
        return restored, restored.pop("frozen")
    if not abstract:
        return checkpoints.restore(dict(wanted), step), {}
    if not config.model.weights.is_dir():
        raise BadInputError(
            f"{config.model.weights}: no such directory, but the run began with the weights there, and its checkpoints "
            "hold only what was trained; put it back"
        )
    if exact:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, frozen_dtype="float32"))
    frozen = starting_parameters(config, setup, paths=abstract)
    number = jax.ShapeDtypeStruct((), jnp.uint32, sharding=replicated(setup.mesh))
    restored = checkpoints.restore({**wanted, _DIGESTS: dict.fromkeys(abstract, number)}, step)
    found = digests(frozen, {path: leaf.dtype for path, leaf in abstract.items()})
    expected = restored.pop(_DIGESTS)
    if changed := [path for path in sorted(abstract) if int(found[path]) != int(expected[path])]:
        raise BadInputError(
            f"{config.model.weights}: not the weights that the run began with, {changed[0]} and {len(changed) - 1} "
            "others differ; its checkpoints hold only what was trained, so put the old ones back"
        )
    return restored, frozen
