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
from ega_jax.errors import BadInputError
from ega_jax.training.config import MeshSettings, TrainConfig, load_experiment

if TYPE_CHECKING:
    from ega_jax.plan.plan import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Compile a config's train step for hardware that need not be there, and tell what a device would hold and do.

    ega-jax plan configs/llava_onevision_7b_lora.py --topology v5p:4x4x4 h200:8

    ega-jax plan configs/llava_onevision_7b.py --topology h200:8 --data.chunk-size 8 --output plan.json
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    topology: tuple[str, ...]
    """One or several to compare: v5p:4x4x4 (chips of a TPU slice), v5e:16x16:2 (two slices), h200:8, h200:4x8 (hosts x
    GPUs), cpu:8."""
    query: tuple[int, int] = (1024, 1)
    """The bucket of the queries: tokens of a row, and tiles or patches of its pictures."""
    target: tuple[int, int] = (1024, 1)
    """The same of the targets."""
    encode: bool = False
    """Plan the encoding of `validation.batch_size` rows of the query bucket instead, which has the run's state beside
    it."""
    search_mesh: bool = False
    """Try the meshes that make sense, and suggest the fastest that fits; every try is compiled."""
    search_chunk: bool = False
    """Double the chunk size for as long as the step fits, or halve it until it does, and suggest the fastest; every try
    is compiled."""
    output: Path | None = None
    """Write all figures there too, as JSON."""


def run(arguments: Sequence[str]) -> int:
    """Plans a program on each topology, prints a table, and writes JSON."""
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
    from ega_jax.plan.plan import make_plan, plan_encoding
    from ega_jax.plan.search import search_chunk, search_mesh
    from ega_jax.plan.topology import find_topology

    if chosen.encode and (chosen.search_mesh or chosen.search_chunk):
        raise BadInputError("--encode has no mesh or chunk to search; set --mesh.fsdp and --validation.batch-size")
    query, target = Bucket(*chosen.query), Bucket(*chosen.target)
    topologies = [find_topology(name) for name in chosen.topology]
    plans = []
    for topology in topologies:
        say(f"compiling for {topology.name}: a model of 7B takes one to three minutes")
        config = chosen.config
        if chosen.encode:
            plan = plan_encoding(config, topology, query)
        elif chosen.search_mesh:
            tried = search_mesh(config, topology, query, target, say)
            if not tried:
                raise BadInputError(
                    f"{topology.name}: on no mesh of {len(topology.devices)} devices does the state fit and a batch of "
                    f"{config.data.batch_size} divide into chunks of {config.data.chunk_size} rows"
                )
            plan = _best(tried, "meshes")
            config = dataclasses.replace(config, mesh=MeshSettings(**plan.mesh))
        else:
            plan = make_plan(config, topology, query, target)
        if chosen.search_chunk:
            tried = search_chunk(config, topology, query, target, plan, say)
            plan = _best(tried, "chunks")
            if largest := max((one.chunk_size or 0 for one in tried if one.fits), default=0):
                print(f"{topology.name}: the largest chunk that fits, of those tried, has {largest} rows")
        plans.append(plan)
    Console().print(_table(plans))
    for plan in plans:
        print(f"{plan.topology}: {plan.verdict}")
        if chosen.search_mesh or chosen.search_chunk:
            print(f"{plan.topology}: suggested: {_settings(plan)}")
        if plan.unknown_loops:
            print(f"{plan.topology}: {plan.unknown_loops} loops have no known bound and were counted once")
    if chosen.output is not None:
        chosen.output.write_text(json.dumps([dataclasses.asdict(plan) for plan in plans], indent=2) + "\n")
        say(f"wrote {chosen.output}")
    return DONE


def _best(tried: Sequence[Plan], what: str) -> Plan:
    print(f"{tried[0].topology}: {what} that were tried, the fastest that fits first")
    Console().print(_table(tried))
    return tried[0]


def _settings(plan: Plan) -> str:
    mesh = f"--mesh.data -1 --mesh.fsdp {plan.mesh['fsdp']} --mesh.tensor {plan.mesh['tensor']}"
    return mesh if plan.chunk_size is None else f"{mesh} --data.chunk-size {plan.chunk_size}"


def _table(plans: Sequence[Plan]) -> Table:
    table = Table(f"{plans[0].program}, of one device", *(plan.topology for plan in plans))
    table.add_row("mesh (data x fsdp x tensor)", *(" x ".join(map(str, plan.mesh.values())) for plan in plans))
    table.add_row("rows at once", *(str(plan.chunk_size or "all") for plan in plans))
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
    table.add_row("in all, s: all overlapped, nothing", *(_pair(plan.step_seconds, "{:.2f}") for plan in plans))
    table.add_row("MFU at these", *(_pair(plan.mfu, "{:.0%}") for plan in plans))
    return table


def _pair(bounds: tuple[float, float] | None, form: str) -> str:
    return "-" if bounds is None else " to ".join(form.format(bound) for bound in bounds)
