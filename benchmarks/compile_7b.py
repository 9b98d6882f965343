"""Compiles a config's train step for accelerators that are not there, and says what a device would hold.

The step is the trainer's own, on shapes alone; the compilers are the real ones. They come with packages that nothing
else here needs: `pip install 'jax[tpu]'`, or `'jax[cuda12]'`, of the pinned version, beside the `train` extra.

    python benchmarks/compile_7b.py configs/llava_onevision_7b.py --topology v5p:4x4x4
    python benchmarks/compile_7b.py configs/llava_onevision_7b.py --topology h200:8
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from measure import Results, machine, table

from ega_jax.data.buckets import Bucket
from ega_jax.models.backbones import backbone_of
from ega_jax.plan.step import local_bytes, lower_step, model_of
from ega_jax.plan.topology import find_topology
from ega_jax.platforms import compiling_for
from ega_jax.training.config import load_experiment
from ega_jax.training.sharding import make_mesh

GIB = 2**30
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/benchmarks/compile.json"
PAGE = """# The 7B train step, compiled

Made by `benchmarks/compile_7b.py`: the trainer's own step of a config, compiled by the real XLA for accelerators that
are not there. Queries and targets are both in the bucket that is named: tokens of a row, and tiles or patches of its
pictures, of which a device encodes a chunk of rows at once. The batch is the config's 1,024 rows, trained with AdamW
in float32; what the config freezes is held in bfloat16. The mesh is data x fsdp x tensor; bytes are those of one
device, as XLA's memory analysis has them. A v5p chip holds 95 GiB, an H200 141 GB. cuDNN's and splash attention both
compile without their device; what is not known without it is how fast they are.
"""


def main() -> None:
    arguments = parse(sys.argv[1:])
    config = load_experiment(arguments.config)
    topology = find_topology(arguments.topology)
    attention = arguments.attention or {"tpu": "splash", "gpu": "cudnn"}.get(topology.chip.platform, "auto")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention=attention))
    for name, value in (("fsdp", arguments.fsdp), ("tensor", arguments.tensor)):
        if value is not None:
            config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **{name: value}))
    if arguments.chunk_size is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, chunk_size=arguments.chunk_size))
    mesh = make_mesh(config.mesh, topology.devices)
    print(f"{arguments.config}: mesh {dict(mesh.shape)}, attention {attention}", flush=True)

    model = model_of(config)
    start = time.perf_counter()
    with compiling_for(topology.chip.platform):
        lowered, state = lower_step(config, mesh, Bucket(*arguments.query), Bucket(*arguments.target))
        traced = time.perf_counter()
        compiled = lowered.compile()
    done = time.perf_counter()
    memory = compiled.memory_analysis()
    held = local_bytes(state)
    row = {
        "config": arguments.config.stem,
        "hardware": arguments.topology,
        "mesh": " x ".join(map(str, mesh.devices.shape)),
        "attention": attention,
        "rows a chunk": config.data.chunk_size,
        "bucket": "{} tokens, {} {}".format(*arguments.query, backbone_of(model.model_type).layout(model.image).unit),
        "state, GiB": round(held / GIB, 2),
        "temporaries, GiB": round(memory.temp_size_in_bytes / GIB, 2),
        "peak, GiB": round(memory.peak_memory_in_bytes / GIB, 2),
        "trace, s": round(traced - start),
        "compile, s": round(done - traced),
    }
    print(*(f"  {name}: {value}" for name, value in row.items()), sep="\n")
    results = Results(RESULTS, ("config", "hardware", "mesh", "attention", "rows a chunk", "bucket"))
    results.save("compile", [row], f"jax {jax.__version__}, compiled on {machine()}")
    write_page(results)
    if arguments.hlo is not None:
        arguments.hlo.write_text(compiled.as_text())


def write_page(results: Results) -> None:
    rows = results.rows("compile")
    cells = table(list(rows[0]), [list(row.values()) for row in rows])
    (ROOT / "docs/benchmarks/compile.md").write_text(f"{PAGE}\n{cells}\n\n{results.origin('compile')}.\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--topology", required=True, help="v5p:4x4x4, h200:8 ...; see docs/scale.md")
    parser.add_argument("--attention", help="a backend; default: splash on TPUs, cudnn on GPUs")
    parser.add_argument("--fsdp", type=int)
    parser.add_argument("--tensor", type=int)
    parser.add_argument("--chunk-size", type=int)
    shape = {"nargs": 2, "type": int, "metavar": ("TOKENS", "UNITS")}
    parser.add_argument("--query", **shape, default=(1024, 1), help="the bucket of the queries")
    parser.add_argument("--target", **shape, default=(1024, 1), help="the bucket of the targets")
    parser.add_argument("--hlo", type=Path, help="write the compiled program there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
