"""Compiles a config's train step for accelerators that are not there, and says what a device would hold.

The step is the trainer's own, on shapes alone; the compilers are the real ones. They come with packages that nothing
else here needs: `pip install 'jax[tpu]'`, or `'jax[cuda12]'`, of the pinned version, beside the `train` extra.

    python benchmarks/compile_7b.py configs/llava_onevision_7b.py --tpu v5p:4x4x4
    python benchmarks/compile_7b.py configs/llava_onevision_7b.py --gpu h200.txtpb --devices 8

A GPU is described by a `stream_executor.GpuTargetConfigProto` in text form; XLA's repository has some.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is held: several may compile at once
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from measure import Results, machine, table

from ega_jax.data.buckets import Bucket
from ega_jax.data.pipeline import global_groups
from ega_jax.models.backbones import backbone_of
from ega_jax.models.presets import config_of
from ega_jax.training.config import TrainConfig, load_experiment
from ega_jax.training.optimizer import make_optimizer
from ega_jax.training.setup import functional_model
from ega_jax.training.sharding import batch_devices, batch_sharding, make_mesh, replicated
from ega_jax.training.state import abstract_state
from ega_jax.training.step import train_step

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
    attention = arguments.attention or ("splash" if arguments.tpu else "cudnn")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention=attention))
    for name, value in (("fsdp", arguments.fsdp), ("tensor", arguments.tensor)):
        if value is not None:
            config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **{name: value}))
    if arguments.chunk_size is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, chunk_size=arguments.chunk_size))
    mesh = make_mesh(config.mesh, devices_of(arguments))
    print(f"{arguments.config}: mesh {dict(mesh.shape)}, attention {attention}", flush=True)

    model = config_of(config.model.preset).with_resolution(
        max_tiles=config.model.max_tiles, base_only=config.model.base_only, max_pixels=config.model.max_pixels
    )
    functional = functional_model(config, model)
    optimizer, _ = make_optimizer(config.optimizer, config.steps or 1)
    state = abstract_state(config, functional, mesh)
    batch = abstract_batch(config, model, mesh, Bucket(*arguments.query), Bucket(*arguments.target))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = functools.partial(train_step, functional=functional, optimizer=optimizer, loss=config.loss, mesh=mesh)

    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)).lower(state, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory = compiled.memory_analysis()
    held = sum(local_bytes(leaf) for leaf in jax.tree.leaves(state))
    row = {
        "config": arguments.config.stem,
        "hardware": arguments.tpu or f"{arguments.devices} x {arguments.gpu.stem}",
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
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tpu", help="a topology, such as v5p:4x4x4 or v6e:4x4")
    where.add_argument("--gpu", type=Path, help="a file that describes a GPU")
    parser.add_argument("--devices", type=int, default=8, help="GPUs of the host")
    parser.add_argument("--attention", help="a backend; default: splash on TPUs, cudnn on GPUs")
    parser.add_argument("--fsdp", type=int)
    parser.add_argument("--tensor", type=int)
    parser.add_argument("--chunk-size", type=int)
    shape = {"nargs": 2, "type": int, "metavar": ("TOKENS", "UNITS")}
    parser.add_argument("--query", **shape, default=(1024, 1), help="the bucket of the queries")
    parser.add_argument("--target", **shape, default=(1024, 1), help="the bucket of the targets")
    parser.add_argument("--hlo", type=Path, help="write the compiled program there")
    return parser.parse_args(arguments)


def devices_of(arguments: argparse.Namespace) -> list[Any]:
    if arguments.tpu:
        return topologies.get_topology_desc(platform="tpu", topology_name=arguments.tpu).devices
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        topology=f"1x1x{arguments.devices}",
        target_config=arguments.gpu.read_text(),
    ).devices


def abstract_batch(
    config: TrainConfig, model: Any, mesh: jax.sharding.Mesh, query: Bucket, target: Bucket
) -> dict[str, Any]:
    """A batch of `ega_jax.data.pipeline` as shapes, with one positive a query."""
    rows = config.data.batch_size
    groups = global_groups(batch_devices(mesh), rows, config.data.chunk_size)
    layout = backbone_of(model.model_type).layout(model.image)

    def side(bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
        each = rows // groups
        one = layout.collate([], groups=1, rows=each, length=bucket.tokens, units=each * bucket.units)
        arrays = {name: ((groups, *x.shape[1:]), x.dtype) for name, x in one.items()}
        arrays["input_ids"] = ((groups, each, bucket.tokens), jnp.int32)
        arrays["attention_mask"] = ((groups, each, bucket.tokens), bool)
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
            for name, (shape, dtype) in arrays.items()
        }

    labels = {"query_ids": jnp.int32, "target_ids": jnp.int32, "positives": jnp.int32, "target_mask": bool}
    return {
        "queries": side(query),
        "targets": side(target),
        **{name: jax.ShapeDtypeStruct((rows,), dtype, sharding=replicated(mesh)) for name, dtype in labels.items()},
    }


def local_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    shape = leaf.sharding.shard_shape(leaf.shape)
    return int(jnp.dtype(leaf.dtype).itemsize) * functools.reduce(lambda a, b: a * b, shape, 1)


if __name__ == "__main__":
    main()
