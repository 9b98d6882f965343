"""`ega-jax plan`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

from ega_jax.commands.common import DONE, first_positional, say
from ega_jax.training.config import TrainConfig, load_experiment

if TYPE_CHECKING:
    from ega_jax.data.buckets import Bucket
    from ega_jax.plan.plan import Plan
    from ega_jax.plan.topology import Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Compile a config's train step for hardware that need not be there, and tell what a device would hold and do.

    ega-jax plan configs/llava_onevision_7b_lora.py --topology v5p:4x4x4 h200:8

    ega-jax plan configs/llava_onevision_7b.py --topology h200:8 --data.chunk-size 8 --output plan.json
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    topology: tuple[str, ...]
    """One or several to compare: v5p:4x4x4 (chips of a TPU slice), h200:8, h200:4x8 (hosts x GPUs), cpu:8."""
    query: tuple[int, int] = (1024, 1)
    """The bucket of the queries: tokens of a row, and tiles or patches of its pictures."""
    target: tuple[int, int] = (1024, 1)
    """The same of the targets."""
    search_chunk: bool = False
    """Double the chunk size for as long as the step fits; every try is compiled."""
    output: Path | None = None
    """Write all figures there too, as JSON."""


def run(arguments: Sequence[str]) -> int:
    """Plans a step on each topology, prints a table, and writes JSON."""
    path, rest = first_positional(arguments, "a config file, such as configs/glyphs.py")
    default: Any = tyro.MISSING  # only help is asked for
    if path is not None:
        default = PlanOptions(config=load_experiment(path), topology=tyro.MISSING)
    chosen = tyro.cli(PlanOptions, args=rest, default=default, prog="ega-jax plan CONFIG")
    # A compiler's plug-in would look for its hardware, which need not be there.
    jax.config.update("jax_platforms", "cpu")
    # Nor can what is compiled without it be kept.
    jax.config.update("jax_enable_compilation_cache", False)

    from ega_jax.data.buckets import Bucket
    from ega_jax.plan.plan import make_plan
    from ega_jax.plan.topology import find_topology

    query, target = Bucket(*chosen.query), Bucket(*chosen.target)
    topologies = [find_topology(name) for name in chosen.topology]
    plans = []
    for topology in topologies:
        say(f"compiling for {topology.name}: a model of 7B takes one to three minutes")
        plan = make_plan(chosen.config, topology, query, target)
        if chosen.search_chunk:
            plan = _largest_chunk(chosen.config, topology, query, target, plan)
        plans.append(plan)
    Console().print(_table(plans))
    for plan in plans:
        print(f"{plan.topology}: {plan.verdict}")
        if plan.unknown_loops:
            print(f"{plan.topology}: {plan.unknown_loops} loops have no known bound and were counted once")
    if chosen.output is not None:
        chosen.output.write_text(json.dumps([dataclasses.asdict(plan) for plan in plans], indent=2) + "\n")
        say(f"wrote {chosen.output}")
    return DONE


def _largest_chunk(config: TrainConfig, topology: Topology, query: Bucket, target: Bucket, plan: Plan) -> Plan:
    """The plan of the largest chunk that fits: the given one doubled, within a device's share of the batch."""
    from ega_jax.plan.plan import make_plan

    share = config.data.batch_size // (plan.mesh["data"] * plan.mesh["fsdp"])
    chunk = plan.chunk_size
    while plan.fits and chunk is not None and share % (chunk := 2 * chunk) == 0:
        say(f"it fits; compiling with a chunk of {chunk} rows")
        tried = make_plan(
            dataclasses.replace(config, data=dataclasses.replace(config.data, chunk_size=chunk)),
            topology,
            query,
            target,
        )
        if not tried.fits:
            break
        plan = tried
    return plan


def _table(plans: Sequence[Plan]) -> Table:
    table = Table("of one device", *(plan.topology for plan in plans))
    table.add_row("mesh (data x fsdp x tensor)", *(" x ".join(map(str, plan.mesh.values())) for plan in plans))
    table.add_row("rows a chunk", *(str(plan.chunk_size or "all") for plan in plans))
    for title, name, unit in (
        ("parameters, GiB", "parameter_bytes", 2**30),
        ("optimizer, GiB", "optimizer_bytes", 2**30),
        ("temporaries, GiB", "temporary_bytes", 2**30),
        ("peak, GiB", "peak_bytes", 2**30),
        ("matrix products, TFLOP", "flops", 1e12),
        ("memory traffic, GB", "memory_bytes", 1e9),
        ("intensity, FLOP/byte", "intensity", 1),
    ):
        values = [getattr(plan, name) for plan in plans]
        table.add_row(title, *("-" if value is None else f"{value / unit:,.2f}" for value in values))
    for kind in sorted({kind for plan in plans for kind in plan.sent_bytes}):
        table.add_row(f"{kind}, GB sent", *(f"{plan.sent_bytes.get(kind, 0) / 1e9:,.2f}" for plan in plans))
    for part in dict.fromkeys(part for plan in plans for part in plan.seconds):
        table.add_row(f"{part} at their peak, s", *(f"{plan.seconds.get(part, 0):.3f}" for plan in plans))
    table.add_row("step, s: all overlapped, nothing", *(_pair(plan.step_seconds, "{:.2f}") for plan in plans))
    table.add_row("MFU at these", *(_pair(plan.mfu, "{:.0%}") for plan in plans))
    return table


def _pair(bounds: tuple[float, float] | None, form: str) -> str:
    return "-" if bounds is None else " to ".join(form.format(bound) for bound in bounds)
