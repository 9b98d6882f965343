"""What a config's train step or encoder takes on some hardware: does it fit, what moves, how long at least."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING, Any

import jax

from ega_jax.errors import BadInputError
from ega_jax.plan.costs import Costs, costs_of
from ega_jax.plan.hlo import parse
from ega_jax.plan.step import local_bytes, lower_encoding, lower_step
from ega_jax.plan.topology import GIB, Topology
from ega_jax.platforms import compiling_for
from ega_jax.training.sharding import batch_devices, islands, make_mesh
from ega_jax.training.speed import flops_per_token, peak_flops

if TYPE_CHECKING:
    from ega_jax.data.buckets import Bucket
    from ega_jax.training.config import TrainConfig
    from ega_jax.training.step import State


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run of a program on one topology; bytes, operations and seconds are those of one device.

    Attributes:
      program: "train step", or "encoding" of a validation batch.
      fits: whether `peak_bytes` is within the chip's memory; None where its size is not known.
      verdict: the same in words, with what to change.
      parameter_bytes, optimizer_bytes: of the state that stays on the device.
      temporary_bytes, peak_bytes: as XLA's memory analysis has them; None where the compiler gave up for lack of
        memory.
      flops, memory_bytes, sent_bytes: of one run, as `costs_of` reads them; sent by "KIND over LINK links".
      intensity: operations for each byte of `memory_bytes`.
      seconds: of matrix products, memory and links, each at its peak, by these names.
      step_seconds: the longest of those, and their sum: with everything overlapped, and nothing.
      mfu: model FLOPs (`flops_per_token`; 2 a parameter and token in encoding) over the peak, at these two.
    """

    program: str
    topology: str
    mesh: dict[str, int]
    chunk_size: int | None
    attention: str
    fits: bool | None
    verdict: str
    parameter_bytes: int
    optimizer_bytes: int
    temporary_bytes: int | None = None
    peak_bytes: int | None = None
    flops: int | None = None
    memory_bytes: int | None = None
    sent_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0
    intensity: float | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    step_seconds: tuple[float, float] | None = None
    mfu: tuple[float, float] | None = None
    compile_seconds: float | None = None


def make_plan(config: TrainConfig, topology: Topology, query: Bucket, target: Bucket) -> Plan:
    """Compiles the step of a config for a topology, and reads what it takes.

    Raises:
      BadInputError: the mesh or the batch does not divide over the devices.
    """
    mesh = make_mesh(config.mesh, topology.devices)
    with compiling_for(topology.chip.platform):
        lowered, state = lower_step(config, mesh, query, target)
        model_flops = config.data.batch_size * (query.tokens + target.tokens) * flops_per_token(state)
        return _plan("train step", config.data.chunk_size, config, topology, mesh, lowered, state, model_flops)


def plan_encoding(config: TrainConfig, topology: Topology, bucket: Bucket) -> Plan:
    """Compiles what encodes a validation batch beside the state of a run, and reads what it takes.

    Raises:
      BadInputError: the mesh or `validation.batch_size` does not divide over the devices.
    """
    mesh = make_mesh(config.mesh, topology.devices)
    with compiling_for(topology.chip.platform):
        lowered, state = lower_encoding(config, mesh, bucket)
        parameters = sum(leaf.size for leaf in jax.tree.leaves((state["trained"], state["frozen"])))
        rows = config.validation.batch_size
        model_flops = 2.0 * parameters * rows * bucket.tokens
        rows_of_device = rows // batch_devices(mesh)
        return _plan("encoding", rows_of_device, config, topology, mesh, lowered, state, model_flops)


def _plan(
    program: str,
    rows: int | None,
    config: TrainConfig,
    topology: Topology,
    mesh: jax.sharding.Mesh,
    lowered: jax.stages.Lowered,
    state: State,
    model_flops: float,
) -> Plan:
    chip = topology.chip
    plan = Plan(
        program=program,
        topology=topology.name,
        mesh={str(name): size for name, size in mesh.shape.items()},
        chunk_size=rows,
        attention=config.model.attention,
        fits=None,
        verdict="",
        parameter_bytes=local_bytes((state["trained"], state["frozen"])),
        optimizer_bytes=local_bytes(state["optimizer"]),
    )
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = re.search(r"Used .*", str(error))
        why = f"does not fit ({said[0].rstrip('. ') if said else 'the compiler ran out of memory'})"
        return dataclasses.replace(plan, fits=False, verdict=f"{why}: {_advice(plan, chip.memory)}")
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise BadInputError(f"{topology.name}: its compiler tells nothing of the program")
    costs = costs_of(parse(text), islands(list(mesh.devices.flat)))
    # Encoding has the optimizer's state beside it, which its own program does not know of.
    peak = memory.peak_memory_in_bytes + (plan.optimizer_bytes if program == "encoding" else 0)
    fits = peak <= chip.memory if chip.memory else None
    verdict = {
        None: "the memory of this platform is not known",
        True: f"fits: {peak / GIB:.2f} GiB at the peak, of {chip.memory / GIB:.0f}",
        False: f"does not fit ({peak / GIB:.2f} GiB at the peak, of {chip.memory / GIB:.0f}): "
        f"{_advice(plan, chip.memory)}",
    }[fits]
    return dataclasses.replace(
        plan,
        fits=fits,
        verdict=verdict,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=peak,
        flops=costs.flops,
        memory_bytes=costs.memory_bytes,
        sent_bytes={f"{kind} over {link} links": size for (kind, link), size in sorted(costs.sent.items())},
        unknown_loops=costs.unknown_loops,
        intensity=costs.flops / max(costs.memory_bytes, 1),
        compile_seconds=seconds,
        **_times(costs, topology, model_flops / mesh.size),
    )


def _times(costs: Costs, topology: Topology, model_flops: float) -> dict[str, Any]:
    chip, peak = topology.chip, peak_flops(topology.chip.kind)
    if peak is None:
        return {}
    seconds = {
        "matrix products": costs.flops / peak,
        "memory": costs.memory_bytes / chip.memory_bandwidth,
        "fast links": costs.sent_over("fast") / chip.fast_link,
    }
    if slow := costs.sent_over("slow"):
        seconds["slow links"] = slow / chip.slow_link
    bounds = max(seconds.values()), sum(seconds.values())
    return {
        "seconds": seconds,
        "step_seconds": bounds,
        "mfu": tuple(model_flops / peak / bound for bound in bounds),
    }


def _advice(plan: Plan, memory: int) -> str:
    if plan.program == "encoding":
        return "lower validation.batch_size, split the state over more devices (mesh.fsdp), or choose smaller buckets"
    if plan.parameter_bytes + plan.optimizer_bytes > memory / 2:
        return "split the state over more devices (mesh.fsdp), or train adapters (model.lora)"
    return (
        "lower data.chunk_size, keep model.remat at full, choose smaller buckets, or do without "
        "data.keep_frozen_features"
    )
