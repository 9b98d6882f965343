"""The mesh and the chunk that suit some hardware, found by compiling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from ega_jax.plan.plan import Plan, make_plan
from ega_jax.plan.step import local_bytes, model_of
from ega_jax.training.config import MeshSettings, TrainConfig
from ega_jax.training.setup import functional_model
from ega_jax.training.sharding import make_mesh
from ega_jax.training.state import abstract_state

if TYPE_CHECKING:
    from ega_jax.data.buckets import Bucket
    from ega_jax.plan.topology import Topology

Say = Callable[[str], object]


def search_mesh(
    config: TrainConfig, topology: Topology, query: Bucket, target: Bucket, say: Say = lambda _: None
) -> list[Plan]:
    """The plans of all meshes that are worth a try, the fastest that fits first.

    Without "tensor" every power of two is tried for "fsdp" whose share of the state leaves memory for anything else.
    Then, for as long as it helps, half of the best one's "fsdp" becomes "tensor", which splits the state as finely.

    Args:
      config: of the run; its mesh is not looked at, its chunk size is kept.
      topology, query, target: as for `make_plan`.
      say: told what is compiled.

    Returns:
      One plan a mesh; "fastest" is by the sum of all parts at their peaks, or by bytes sent where none are known. Empty
      if the batch divides over no mesh.
    """

    def plan(mesh: MeshSettings) -> Plan:
        say(f"compiling with mesh.fsdp {mesh.fsdp}, mesh.tensor {mesh.tensor}")
        return make_plan(dataclasses.replace(config, mesh=mesh), topology, query, target)

    tried = [plan(mesh) for mesh in _meshes_without_tensor(config, topology)]
    while tried:
        best = min(tried, key=_slowness)
        fsdp, tensor = best.mesh["fsdp"] // 2, best.mesh["tensor"] * 2
        finer = MeshSettings(fsdp=fsdp, tensor=tensor) if fsdp else None
        if finer is None or not _divides(config, len(topology.devices), finer):
            break
        tried.append(plan(finer))
        if min(tried, key=_slowness) is best:
            break
    return sorted(tried, key=_slowness)


def search_chunk(
    config: TrainConfig, topology: Topology, query: Bucket, target: Bucket, plan: Plan, say: Say = lambda _: None
) -> list[Plan]:
    """The plans of a chunk, of it doubled for as long as the step fits, or of it halved until it does.

    Args:
      config: of the plan.
      topology, query, target, say: as for `search_mesh`.
      plan: to start from.

    Returns:
      The given plan and those tried, the fastest that fits first. It need not be the largest: patches that are packed
      into one row for attention, as QQMM's, cost more in a larger chunk.
    """
    share = config.data.batch_size // (plan.mesh["data"] * plan.mesh["fsdp"])

    def with_chunk(chunk: int) -> Plan:
        say(f"compiling with a chunk of {chunk} rows")
        data = dataclasses.replace(config.data, chunk_size=chunk)
        return make_plan(dataclasses.replace(config, data=data), topology, query, target)

    tried, chunk = [plan], plan.chunk_size or share
    if plan.fits:
        while tried[-1].fits and share % (chunk := 2 * chunk) == 0:
            tried.append(with_chunk(chunk))
    while tried[0].fits is False and tried[-1].fits is False and chunk % 2 == 0:
        chunk //= 2
        tried.append(with_chunk(chunk))
    return sorted(tried, key=_slowness)


def _meshes_without_tensor(config: TrainConfig, topology: Topology) -> list[MeshSettings]:
    functional = functional_model(config, model_of(config))
    devices, found, fsdp = len(topology.devices), [], 1
    while devices % fsdp == 0:
        settings = MeshSettings(fsdp=fsdp)
        state = abstract_state(config, functional, make_mesh(settings, topology.devices))
        if _divides(config, devices, settings) and (
            local_bytes(state) < topology.chip.memory or not topology.chip.memory
        ):
            found.append(settings)
        fsdp *= 2
    return found


def _divides(config: TrainConfig, devices: int, mesh: MeshSettings) -> bool:
    parts = devices // mesh.tensor
    share, rest = divmod(config.data.batch_size, parts)
    return devices % (mesh.fsdp * mesh.tensor) == 0 and not rest and share % (config.data.chunk_size or share) == 0


def _slowness(plan: Plan) -> tuple[bool, float]:
    return plan.fits is False, sum(plan.sent_bytes.values()) if plan.step_seconds is None else plan.step_seconds[1]
