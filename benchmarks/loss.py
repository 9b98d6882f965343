"""What the losses cost: time, memory and exactness, against what others would write.

    python benchmarks/loss.py                             what this machine can measure, and docs/benchmarks/loss.md
    python benchmarks/loss.py symmetric --seconds 30      one section; replaces what it measures again
    python benchmarks/loss.py times --sizes 2048x256      other sizes (rows x features)
    python benchmarks/loss.py accelerator --platform cuda is a hand-written kernel worth it? Needs a GPU or TPU
    python benchmarks/loss.py tpu                         compiles for TPUs that need not be there; needs jax[tpu]

Results are kept in docs/benchmarks/loss.json, from which the page is drawn. Peers that are not installed are left out,
and the page says so.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import loss_page
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from measure import MIB, Results, interleave, machine, milliseconds, ratio

from ega_jax.losses import ega_loss, info_nce_loss, sharded_ega_loss, siglip_loss

ROOT = Path(__file__).parent.parent
TEMPERATURE = 0.02
SIZES = {
    "times": "512x256 512x1024 512x3584 2048x256 2048x1024 2048x3584 8192x256 8192x1024 8192x3584",
    "symmetric": "2048x256 8192x256 8192x1024",
    "peers": "512x256 2048x1024",
    "memory": "8192x256 8192x1024 32768x1024 131072x256",
    "large": "131072x256",
    "exact": "1024x256",
    "mesh": "32768x1024",
    "tpu": "32768x1024 131072x768",
    "accelerator": "8192x768 8192x3584 32768x768 32768x3584 65536x768 65536x3584",
}
TPUS = ("v5p:2x2x2", "v5e:4x4")
PEER_MIB = 8192  # a peer that takes more temporaries is left out
TPU_BLOCK = 1024  # the default is that of the platform which runs the compiler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SIZES)}, page; all but tpu and accelerator if none")
    parser.add_argument("--platform", default="cpu", help="cpu, cuda or tpu")
    parser.add_argument("--seconds", type=float, default=10, help="how long to repeat what is timed, a size")
    parser.add_argument("--rounds", type=int, default=5, help="how often even if that takes longer")
    parser.add_argument("--sizes", nargs="*", help="rows x features, as in 8192x1024")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/benchmarks/loss.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/benchmarks/loss.md")
    arguments = parser.parse_args()
    sections = arguments.sections or [name for name in SIZES if name not in ("tpu", "accelerator")]
    if unknown := set(sections) - {*SIZES, "page"}:
        parser.error(f"unknown sections {sorted(unknown)}")
    if len(sections) > 1:  # each in a process of its own, for what one sets up could slow the next
        options = sys.argv[1 + len(arguments.sections) :] if arguments.sections else sys.argv[1:]
        for section in sections:
            subprocess.run([sys.executable, __file__, section, *options], check=True)
        return

    (section,) = sections
    results = Results(arguments.results)
    if section != "page":
        jax.config.update("jax_platforms", "cpu" if section == "tpu" else arguments.platform)
        sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes or SIZES[section].split()]
        rows = globals()[f"measure_{section}"](sizes, arguments.seconds, arguments.rounds)
        device = machine() if arguments.platform == "cpu" else jax.devices()[0].device_kind
        results.save(section, rows, f"{device}, jax {jax.__version__}")
    arguments.page.write_text(loss_page.render(results))


# ------------------------------------------------------------------------------------------------ what is compared


def naive_info_nce(queries: Any, targets: Any, symmetric: bool = False) -> Any:
    """What most people write: all logits, and optax's cross entropy."""
    import optax

    logits = unit(queries) @ unit(targets).T / TEMPERATURE
    labels = jnp.arange(len(queries))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    if symmetric:
        loss = (loss + optax.softmax_cross_entropy_with_integer_labels(logits.T, labels).mean()) / 2
    return loss


def naive_siglip(queries: Any, targets: Any) -> Any:
    """SigLIP's loss likewise, at `siglip_loss`'s temperature and bias."""
    import optax

    logits = unit(queries) @ unit(targets).T / 0.1 - 10
    return optax.sigmoid_binary_cross_entropy(logits, jnp.eye(len(queries))).sum(axis=1).mean()


def unit(rows: Any) -> Any:
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def batch(num_rows: int, features: int, dtype: Any = jnp.float32) -> tuple[Any, Any]:
    """Rows, and positives that are harder to tell from the others than not."""
    queries = jax.random.normal(jax.random.key(0), (num_rows, features))
    targets = queries + 2 * jax.random.normal(jax.random.key(1), (num_rows, features))
    return queries.astype(dtype), targets.astype(dtype)


def compile_step(loss: Callable[..., Any], *arrays: Any) -> Any:
    return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()


def step(loss: Callable[..., Any], *arrays: Any) -> Callable[[], Any]:
    """A compiled value-and-gradient, ready to be timed."""
    compiled = compile_step(loss, *arrays)
    return lambda: jax.block_until_ready(compiled(*arrays))


def plain_products(queries: Any, targets: Any) -> dict[int, Callable[[], Any]]:
    """Plain matrix products, of blocks of so many rows: the fastest of them sets the floor."""
    products = {}
    for rows in sorted({min(rows, len(queries)) for rows in (512, 2048, 8192)}):
        block = queries[:rows]
        compiled = jax.jit(lambda q, t: q @ t.T).lower(block, targets).compile()
        products[rows] = lambda c=compiled, b=block: jax.block_until_ready(c(b, targets))
    return products


def over_floor(times: dict[Any, list[float]], num_rows: int, products: Iterable[int]) -> float:
    """EGA's time over that of a step's three products, at the best rate of any of these."""
    return max(ratio(times, "ega", rows) * rows / (3 * num_rows) for rows in products)


def program(loss: Callable[..., Any], *arrays: Any) -> str:
    """The compiled step without what says where in the source it comes from."""
    text = compile_step(lambda q, t: loss(q, t), *arrays).as_text()
    text = re.sub(r", metadata=\{[^}]*\}", "", text)
    return text[text.index("\n%") :]  # behind the tables of files and functions


# ---------------------------------------------------------------------------------------------------------- sections


def measure_times(sizes: list[tuple[int, ...]], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """EGA and InfoNCE against the naive InfoNCE and against the matrix products alone."""
    rows = []
    for num_rows, features in sizes:
        arrays = batch(num_rows, features)
        products = plain_products(*arrays)
        programs = {
            "naive": step(naive_info_nce, *arrays),
            "info_nce": step(tuned(info_nce_loss), *arrays),
            "ega": step(tuned(ega_loss), *arrays),
            **products,
        }
        times = interleave(programs, seconds, rounds)
        row = {
            "rows": num_rows,
            "features": features,
            "rounds": len(times["ega"]),
            **{f"{name}_ms": milliseconds(times[name]) for name in ("naive", "info_nce", "ega")},
            "ega / naive": ratio(times, "ega", "naive"),
            "info_nce / naive": ratio(times, "info_nce", "naive"),
            "ega / info_nce": ratio(times, "ega", "info_nce"),
            "ega / floor": over_floor(times, num_rows, products),
            "gflops": max(2 * p * num_rows * features / milliseconds(times[p]) / 1e6 for p in products),
            "beta 0 is info_nce": program(tuned(ega_loss, beta=0.0), *arrays) == program(tuned(info_nce_loss), *arrays),
        }
        rows.append(report(row))
    return rows


def measure_symmetric(sizes: list[tuple[int, ...]], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Symmetric EGA against the naive symmetric InfoNCE."""
    rows = []
    for num_rows, features in sizes:
        arrays = batch(num_rows, features)
        programs = {
            "naive": step(functools.partial(naive_info_nce, symmetric=True), *arrays),
            "ega": step(tuned(ega_loss, symmetric=True), *arrays),
        }
        times = interleave(programs, seconds, rounds)
        row = {"rows": num_rows, "features": features, "rounds": len(times["ega"])}
        row |= {f"{name}_ms": milliseconds(times[name]) for name in programs}
        rows.append(report(row | {"ega / naive": ratio(times, "ega", "naive")}))
    return rows


def measure_peers(sizes: list[tuple[int, ...]], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """The same losses from other libraries; value and gradients, and that the values agree."""
    import optax

    rows = []
    for num_rows, features in sizes:
        queries, targets = batch(num_rows, features)
        both, labels = jnp.concatenate([queries, targets]), jnp.arange(num_rows)
        twice, partner = jnp.arange(2 * num_rows), (jnp.arange(2 * num_rows) + num_rows) % (2 * num_rows)

        def of_pairs(rows: Any, partner: Any = partner, twice: Any = twice) -> Any:
            """Each row looks for its partner among all other rows."""
            options = {"positives": partner, "query_ids": twice, "target_ids": twice}
            return info_nce_loss(rows, rows, temperature=TEMPERATURE, **options)

        def of_one(loss: Callable[..., Any], *arrays: Any) -> Callable[[], Any] | None:
            compiled = jax.jit(jax.value_and_grad(loss)).lower(*arrays).compile()
            if compiled.memory_analysis().temp_size_in_bytes > PEER_MIB * MIB:
                return None
            return lambda: jax.block_until_ready(compiled(*arrays))

        programs: dict[str, Any] = {
            "info_nce_loss": step(tuned(info_nce_loss), queries, targets),
            "optax cross entropy": step(naive_info_nce, queries, targets),
            "info_nce_loss, as ntxent": of_one(of_pairs, both),
            "optax.losses.ntxent": of_one(
                lambda rows, labels: optax.losses.ntxent(rows, labels, TEMPERATURE), both, jnp.tile(labels, 2)
            ),
            "siglip_loss": step(siglip_loss, queries, targets),
            "optax sigmoid cross entropy": step(naive_siglip, queries, targets),
            **torch_programs(np.asarray(queries), np.asarray(targets)),
        }
        programs = {name: run for name, run in programs.items() if run is not None}
        times = interleave(programs, seconds, rounds)
        ours = {
            "optax.losses.ntxent": "info_nce_loss, as ntxent",
            "optax sigmoid cross entropy": "siglip_loss",
        }
        for name in programs:
            row = {"rows": num_rows, "features": features, "loss": name, "ms": milliseconds(times[name])}
            value = programs[name]()
            row["value"] = float(value[0] if isinstance(value, tuple) else value)
            own = name if name in ours.values() else "info_nce_loss"
            row["ours / this"] = ratio(times, ours.get(name, own), name)
            rows.append(report(row))
    return rows


def torch_programs(queries: np.ndarray, targets: np.ndarray) -> dict[str, Callable[[], Any]]:
    if find_spec("torch") is None:
        return {}
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    q, t = (torch.tensor(x, requires_grad=True) for x in (queries, targets))

    def cross_entropy() -> float:
        q.grad = t.grad = None
        logits = F.normalize(q) @ F.normalize(t).T / TEMPERATURE
        loss = F.cross_entropy(logits, torch.arange(len(q)))
        loss.backward()
        return loss.item()

    programs = {"torch F.cross_entropy": cross_entropy}
    if find_spec("sentence_transformers") is not None:
        from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

        cached = CachedMultipleNegativesRankingLoss(
            torch.nn.Sequential(torch.nn.Identity()), scale=1 / TEMPERATURE, mini_batch_size=512
        )

        def cached_loss() -> float:
            q.grad = t.grad = None
            return cached.calculate_loss([[q], [t]], with_backward=True).item()

        programs["sentence-transformers, cached"] = cached_loss
    return programs


def measure_memory(sizes: list[tuple[int, ...]], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Temporaries of the compiled steps. Nothing runs."""
    rows = []
    for num_rows, features in sizes:
        shape = jax.ShapeDtypeStruct((num_rows, features), jnp.float32)
        row: dict[str, Any] = {"rows": num_rows, "features": features}
        losses = {"naive": naive_info_nce, "ega": tuned(ega_loss), "symmetric": tuned(ega_loss, symmetric=True)}
        for name, loss in losses.items():
            row[f"{name}_mib"] = compile_step(loss, shape, shape).memory_analysis().temp_size_in_bytes / MIB
        rows.append(report(row))
    return rows


def measure_large(sizes: list[tuple[int, ...]], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """One step of a batch whose logits would not fit, once."""
    rows = []
    for num_rows, features in sizes:
        arrays = batch(num_rows, features)
        compiled = compile_step(tuned(ega_loss), *arrays)
        times = interleave({"ega": lambda c=compiled, a=arrays: jax.block_until_ready(c(*a))}, 0, 0, warm_up=False)
        row = {"rows": num_rows, "features": features, "seconds": times["ega"][0]}
        row["mib"] = compiled.memory_analysis().temp_size_in_bytes / MIB
        row["logits_mib"] = 4 * num_rows**2 / MIB
        rows.append(report(row))
    return rows


def measure_exact(sizes: list[tuple[int, ...]], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Errors against float64 numpy: of the value, and of gradients relative to their norm."""
    rows = []
    for num_rows, features in sizes:
        for dtype in (jnp.float32, jnp.bfloat16):
            arrays = batch(num_rows, features, dtype)
            expected = ega_in_float64(*(np.asarray(x, np.float64) for x in arrays))
            row = {"rows": num_rows, "features": features, "dtype": dtype.__name__}
            for name, block_size in (("default", None), ("blocks of 100", 100)):
                value, gradients = compile_step(tuned(ega_loss, block_size=block_size), *arrays)(*arrays)
                errors = [relative_norm(a, e) for a, e in zip(gradients, expected[1], strict=True)]
                row[f"{name}: value"] = abs(float(value) / expected[0] - 1)
                row[f"{name}: gradients"] = max(errors)
            rows.append(report(row))
    return rows


def ega_in_float64(queries: np.ndarray, targets: np.ndarray) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """EGA's definition, α = 5, β = 1, "relative" and "normalized": value and gradients."""
    norms = [np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, targets)]
    q, t = queries / norms[0], targets / norms[1]
    similarity, eye = q @ t.T, np.eye(len(q))
    relative = similarity - np.diagonal(similarity)[:, None]
    shares = np.exp(relative / TEMPERATURE)  # relative to the positive's
    value = np.mean(np.log(shares.sum(axis=1)))
    shares *= np.where(eye == 1, 1, 1 + np.exp(5 * relative))
    gradient = (shares / shares.sum(axis=1, keepdims=True) - eye) / (TEMPERATURE * len(q))
    gradients = []
    for of_unit, x, norm in ((gradient @ t, q, norms[0]), (gradient.T @ q, t, norms[1])):
        gradients.append((of_unit - x * (x * of_unit).sum(axis=1, keepdims=True)) / norm)
    return float(value), tuple(gradients)


def relative_norm(actual: Any, expected: Any) -> float:
    expected = np.asarray(expected, np.float64)
    return float(np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected))


def measure_mesh(sizes: list[tuple[int, ...]], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Temporaries a device over eight devices, and a quarter of the rows run and compared with one device."""
    jax.config.update("jax_num_cpu_devices", 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = []
    for num_rows, features in sizes:
        arrays = batch(num_rows // 4, features)
        expected = compile_step(tuned(ega_loss), *arrays)(*arrays)[1]
        sharded = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))
        for row in exchanges(mesh, num_rows, features):
            actual = compile_step(sharded_ega_loss(mesh, "data", row["exchange"], temperature=TEMPERATURE), *sharded)(
                *sharded
            )[1]
            row["difference"] = max(map(relative_norm, actual, expected))
            rows.append(report(row))
    return rows


def measure_tpu(sizes: list[tuple[int, ...]], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """The same, compiled by the TPU compiler for chips that need not be there."""
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    rows = []
    for name in TPUS:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
        mesh = jax.sharding.Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        for num_rows, features in sizes:
            for dtype in (jnp.float32, jnp.bfloat16):
                for row in exchanges(mesh, num_rows, features, dtype, TPU_BLOCK):
                    rows.append(report({"chips": f"{name} ({len(devices)})", "dtype": dtype.__name__} | row))
    return rows


def exchanges(
    mesh: Any, num_rows: int, features: int, dtype: Any = jnp.float32, block_size: int | None = None
) -> list[dict[str, Any]]:
    shape = jax.ShapeDtypeStruct((num_rows, features), dtype, sharding=NamedSharding(mesh, PartitionSpec("data")))
    rows = []
    for exchange in ("all_gather", "ring"):
        row: dict[str, Any] = {"rows": num_rows, "features": features, "exchange": exchange}
        for name, symmetric in (("mib", False), ("symmetric_mib", True)):
            options = {"temperature": TEMPERATURE, "symmetric": symmetric, "block_size": block_size}
            loss = sharded_ega_loss(mesh, "data", exchange, **options)
            row[name] = compile_step(loss, shape, shape).memory_analysis().temp_size_in_bytes / MIB
        rows.append(row)
    return rows


def measure_accelerator(sizes: list[tuple[int, ...]], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """bfloat16 steps against the products alone: over 1.3, a hand-written kernel would be worth it."""
    if jax.default_backend() == "cpu":
        sys.exit("the section accelerator needs a GPU or TPU: --platform cuda or --platform tpu")
    rows = []
    for num_rows, features in sizes:
        arrays = batch(num_rows, features, jnp.bfloat16)
        products = plain_products(*arrays)
        times = interleave({"ega": step(tuned(ega_loss), *arrays), **products}, seconds, rounds)
        row = {"rows": num_rows, "features": features, "ega_ms": milliseconds(times["ega"])}
        rows.append(report(row | {"ega / floor": over_floor(times, num_rows, products)}))
    return rows


def tuned(loss: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return functools.partial(loss, temperature=TEMPERATURE, **options)


def report(row: dict[str, Any]) -> dict[str, Any]:
    """Shows a row as soon as it is known."""
    print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    return row


if __name__ == "__main__":
    main()
