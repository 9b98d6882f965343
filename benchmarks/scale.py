"""Plans the 7B recipes on pods and hosts that are not there, one record a compile, and draws what docs/scale.md shows.

    python benchmarks/scale.py                      # compiles what docs/benchmarks/scale.json has not; may be stopped
    python benchmarks/scale.py --only h200          # the cells whose name holds this
    python benchmarks/scale.py --draw               # the page and the figures again, from the records

It needs both compilers beside the `train` extra: `pip install 'jax[tpu,cuda12]'`, of the installed version of JAX.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import scale_page

from ega_jax.data.buckets import Bucket
from ega_jax.plan.plan import make_plan, plan_encoding
from ega_jax.plan.step import abstract_batch, local_bytes, model_of
from ega_jax.plan.topology import find_topology
from ega_jax.training.config import MeshSettings, TrainConfig, load_experiment
from ega_jax.training.sharding import make_mesh

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs/benchmarks/scale.json"
BATCH = 1024


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Attributes:
    config: a file of configs/.
    trained: "LoRA" or "full".
    bucket: tokens of a row, and tiles or patches of its picture, on both sides.
    """

    model: str
    trained: str
    config: str
    bucket: tuple[int, int]


RECIPES = (
    Recipe("LLaVA-OneVision-7B", "LoRA", "llava_onevision_7b_lora", (1024, 1)),
    Recipe("LLaVA-OneVision-7B", "full", "llava_onevision_7b", (1024, 1)),
    Recipe("QQMM-7B", "LoRA", "mmeb_qqmm_7b", (1024, 1024)),
    Recipe("QQMM-7B", "full", "qqmm_7b", (1024, 1024)),
)

# Topology, and of LoRA and full training: fsdp, and rows a chunk. "data" has the other devices. What is frozen stays
# whole where it fits; what is trained is split until it leaves room for chunks.
LAYOUTS = {
    "h200:8": {"LoRA": (1, 32), "full": (8, 32)},
    "h200:4x8": {"LoRA": (1, 32), "full": (8, 32)},
    "v5p:4x4x4": {"LoRA": (1, 16), "full": (16, 16)},
    "v5e:8x8": {"LoRA": (4, 8), "full": (64, 4)},
    "v5p:4x8x8": {"LoRA": (1, 4), "full": (16, 4)},
    "v5e:16x16": {"LoRA": (4, 4), "full": (64, 4)},
    "v5e:4x4": {"LoRA": (4, 8), "full": (16, 4)},
}
# Of the LoRA recipes, beside their state: rows that a device encodes at once.
ENCODING = {"h200:8": 32, "v5p:4x4x4": 32, "v5e:4x4": 16}
QQMM_CHUNK = 4  # all patches of a chunk meet in the attention of its tower, so larger ones cost more


@dataclasses.dataclass(frozen=True)
class Cell:
    recipe: Recipe
    topology: str
    fsdp: int
    chunk: int
    batch: int = BATCH
    aside: bool = False
    """Not of the grid of models and hardware: what the first plan showed, what another chunk costs, encoders."""
    encodes: bool = False
    """The encoder in place of the step: `batch` rows at once, in no chunks."""

    @property
    def name(self) -> str:
        recipe = self.recipe
        what = f"{recipe.model} {recipe.trained} {self.topology} fsdp {self.fsdp}"
        return f"{what} encodes {self.batch}" if self.encodes else f"{what} chunk {self.chunk} batch {self.batch}"


def cells() -> list[Cell]:
    """The most useful first: GPUs compile in a minute, TPUs in several."""
    grid = []
    for topology, layouts in LAYOUTS.items():
        for recipe in RECIPES:
            fsdp, chunk = layouts[recipe.trained]
            grid.append(Cell(recipe, topology, fsdp, QQMM_CHUNK if recipe.model == "QQMM-7B" else chunk))
    lora, full = RECIPES[:2]
    # As the configs were, before the first plan: everything split over eight devices, four rows at once.
    aside = [Cell(recipe, "h200:8", 8, 4, aside=True) for recipe in (lora, full)]
    # A large chunk of QQMM's, for what it costs; and a device's whole share, which needs no second forward pass.
    aside += [Cell(RECIPES[2], "h200:8", 1, 32, aside=True), Cell(lora, "h200:8", 1, 128, aside=True)]
    larger = [
        Cell(lora, "h200:8", 1, 32, 8192),
        Cell(lora, "h200:8", 1, 32, 65536),
        Cell(full, "h200:8", 8, 32, 8192),
    ]
    encoders = []
    for topology, rows in ENCODING.items():
        fsdp, devices = LAYOUTS[topology]["LoRA"][0], math.prod(map(int, topology.partition(":")[2].split("x")))
        for recipe in (lora, RECIPES[2]):
            chunk = QQMM_CHUNK if recipe.model == "QQMM-7B" else rows
            encoders.append(Cell(recipe, topology, fsdp, chunk, chunk * devices, aside=True, encodes=True))
    gpus = sum(cell.topology.startswith("h200") for cell in grid)
    return [*grid[:gpus], *aside, *larger, *grid[gpus:], *encoders]


def main() -> None:
    arguments = parse(sys.argv[1:])
    jax.config.update("jax_enable_compilation_cache", False)
    records = read()
    wanted = [cell for cell in cells() if arguments.only in cell.name and cell.name not in records]
    for cell in [] if arguments.draw else wanted:
        print(cell.name, flush=True)
        records[cell.name] = compile_cell(cell)
        print(f"  {records[cell.name]['verdict']}", flush=True)
        write(records)
    in_order = [records[cell.name] for cell in cells() if cell.name in records]
    scale_page.draw(in_order, [planned(cell) for cell in cells()], ROOT / "docs")


def compile_cell(cell: Cell) -> dict[str, Any]:
    """What one device holds, computes and sends in the step of a cell."""
    config, topology, bucket = config_of(cell), find_topology(cell.topology), Bucket(*cell.recipe.bucket)
    plan = plan_encoding(config, topology, bucket) if cell.encodes else make_plan(config, topology, bucket, bucket)
    mesh, model = make_mesh(config.mesh, topology.devices), model_of(config)
    # Both sides' features of a frozen tower, in bfloat16: a tile is many of them, a patch is one.
    features = bucket.units * getattr(model.vision, "num_patches", 1) * model.vision.hidden_size * 2
    more = {
        "devices": mesh.size,
        "chip_bytes": topology.chip.memory,
        "batch_bytes": local_bytes(abstract_batch(config, model, mesh, bucket, bucket)),
        "feature_bytes": 2 * features * config.data.batch_size // mesh.size,
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }
    return {**planned(cell), **dataclasses.asdict(plan), **more}


def config_of(cell: Cell) -> TrainConfig:
    config = load_experiment(ROOT / f"configs/{cell.recipe.config}.py")
    batch = BATCH if cell.encodes else cell.batch
    data = dataclasses.replace(config.data, batch_size=batch, chunk_size=cell.chunk)
    validation = dataclasses.replace(config.validation, batch_size=cell.batch)
    return dataclasses.replace(config, data=data, validation=validation, mesh=MeshSettings(fsdp=cell.fsdp))


def planned(cell: Cell) -> dict[str, Any]:
    """What is known of a cell before it is compiled."""
    recipe = cell.recipe
    named = {"name": cell.name, "model": recipe.model, "trained": recipe.trained, "config": recipe.config}
    return {**named, "bucket": list(recipe.bucket), "topology": cell.topology, "fsdp": cell.fsdp, "batch": cell.batch,
            "aside": cell.aside}  # fmt: skip


def read() -> dict[str, dict[str, Any]]:
    return {record["name"]: record for record in json.loads(RECORDS.read_text())} if RECORDS.exists() else {}


def write(records: dict[str, dict[str, Any]]) -> None:
    """In the order of the cells; a record of a layout that is no longer planned is dropped."""
    kept = [records[cell.name] for cell in cells() if cell.name in records]
    partial = RECORDS.with_suffix(".partial")
    partial.write_text(json.dumps(kept, indent=1) + "\n")
    partial.replace(RECORDS)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="compile the cells whose name holds this")
    parser.add_argument("--draw", action="store_true", help="compile nothing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
