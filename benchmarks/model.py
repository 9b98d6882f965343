"""LLaVA-OneVision here and in torch transformers: the same weights, the same inputs, the same machine.

    python benchmarks/model.py small            # about 50M parameters: encode, and a whole train step
    python benchmarks/model.py 0.5b             # the published 0.5B's sizes: encode
    python benchmarks/model.py 0.5b --platform gpu --only jax

Each framework has a process of its own, so that the memory of each is known; the two run in turn, round after round.
A run checks first that both compute the same embeddings and the same loss.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/benchmarks/model.json"
FRAMEWORKS = ("torch", "jax")
TEMPERATURE = 0.05

PAGE = """# LLaVA-OneVision against torch transformers

Made by `benchmarks/model.py`: the same random weights and inputs in both, each framework in a process of its own, run
in turn; medians of the rounds, and the median of their ratios torch / jax (above 1, this project is faster). A batch
is a few pictures, each of two tiles, with some words, padded; the train step adds as many texts: both encoded, the
contrastive loss, all gradients, clipping, AdamW. Nothing is rematerialised. Tokens are the decoder's, padding
included. Peak memory is that of the whole process, all tasks of the model included. GFLOP/s count the model's
products (a causal query meets half of the keys; a step is three forward passes).
"""

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "v5p": 459e12, "v5e": 197e12, "v6e": 918e12}
"""Dense bfloat16 products a second, by a part of the device's name, from the makers' data sheets."""


def main() -> None:
    arguments = parse()
    if arguments.worker:
        return work(arguments)
    if not arguments.page_only:
        compare(arguments)
    write_page()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["small", "0.5b", "7b"])
    parser.add_argument("--platform", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--only", choices=FRAMEWORKS, help="run one framework alone")
    parser.add_argument("--rows", type=int, default=4, help="pictures, and texts, a batch")
    parser.add_argument("--seconds", type=float, default=60, help="for each task")
    parser.add_argument("--page-only", action="store_true", help="draw the page again from the kept results")
    parser.add_argument("--worker", choices=("save", *FRAMEWORKS), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# ---------------------------------------------------------------- the parent: starts both, runs them in turn


def compare(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        if "torch" in selected(arguments):
            # Weights that torch can read too, from a process of its own, so that its memory is nobody's.
            subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--worker=save", f"--directory={directory}"], check=True
            )
        workers = {name: Worker(name, directory) for name in selected(arguments)}
        rows = [compare_task(task, workers, arguments) for task in tasks(arguments)]
        peaks = {name: worker.stop() for name, worker in workers.items()}
    for row in rows:
        row["peak_gib"] = peaks
    measure.Results(RESULTS, ("task",)).save(f"{arguments.model} {arguments.platform}", rows, rows[0]["device"])


def selected(arguments: argparse.Namespace) -> tuple[str, ...]:
    return FRAMEWORKS if arguments.only is None else (arguments.only,)


def tasks(arguments: argparse.Namespace) -> tuple[str, ...]:
    return ("encode", "train step") if arguments.model == "small" else ("encode",)


def compare_task(task: str, workers: dict[str, Worker], arguments: argparse.Namespace) -> dict[str, Any]:
    first = {name: worker.run(task) for name, worker in workers.items()}
    if len(first) == 2:
        np.testing.assert_allclose(first["jax"]["value"], first["torch"]["value"], atol=1e-4)
    times = measure.interleave({n: functools.partial(w.run, task) for n, w in workers.items()}, arguments.seconds, 3)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    known = next(iter(first.values()))
    row = {
        "task": task,
        "rounds": len(next(iter(times.values()))),
        "seconds": seconds,
        "ratio": measure.ratio(times, "torch", to="jax") if len(times) == 2 else None,
        **{name: known[name] for name in ("parameters", "tokens", "flops", "device")},
    }
    print(json.dumps(row), flush=True)
    return row


def command(worker: str, directory: str) -> list[str]:
    return [sys.executable, __file__, *sys.argv[1:], f"--worker={worker}", f"--directory={directory}"]


class Worker:
    """One framework in a process: a line in, the task is done, a line out."""

    def __init__(self, name: str, directory: str) -> None:
        self._process = subprocess.Popen(
            command(name, directory), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, task: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def stop(self) -> float:
        """Ends the process; its peak memory in GiB."""
        peak = self.run("stop")["peak_gib"]
        self._process.wait()
        return peak


# ---------------------------------------------------------------- a worker


def work(arguments: argparse.Namespace) -> None:
    os.environ["JAX_PLATFORMS"] = "cuda" if arguments.platform == "gpu" else "cpu"
    config = model_config(arguments.model)
    if arguments.worker == "save":
        return save(config, arguments.directory)
    pictures, texts = batch(config, arguments.rows, pictures=True), batch(config, arguments.rows, pictures=False)
    programs = (jax_programs if arguments.worker == "jax" else torch_programs)(config, arguments, pictures, texts)
    work_of = {"encode": count(config, [pictures]), "train step": count(config, [pictures, texts])}
    for line in sys.stdin:
        task = line.strip()
        if task == "stop":
            print(json.dumps({"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}), flush=True)
            return
        value = programs[task]()
        tokens, flops = work_of[task]
        flops *= 3 if task == "train step" else 1
        known = {"parameters": programs["parameters"], "tokens": tokens, "flops": flops, "device": programs["device"]}
        print(json.dumps({"value": np.asarray(value, np.float64).tolist(), **known}), flush=True)


def model_config(name: str) -> Any:
    import dataclasses

    from ega_jax.models import PRESETS
    from ega_jax.models.anyres import AnyresConfig
    from ega_jax.models.qwen2_config import Qwen2Config
    from ega_jax.models.siglip import SiglipConfig

    if name != "small":
        return PRESETS[f"llava_onevision_{name}"]
    return dataclasses.replace(
        PRESETS["llava_onevision_0.5b"],
        vision=SiglipConfig(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=6,
            image_size=224,
            patch_size=14,
        ),
        text=Qwen2Config(
            vocab_size=8192,
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
        ),
        image=AnyresConfig(tile_size=224, grid_size=16, pinpoints=((224, 224), (224, 448), (448, 224))),
        image_token_id=7,
        video_token_id=9,
    )


def save(config: Any, directory: Path) -> None:
    from flax import nnx

    import ega_jax.models

    ega_jax.models.save(ega_jax.models.build(config, rngs=nnx.Rngs(0)), directory)


def batch(config: Any, rows: int, *, pictures: bool) -> dict[str, np.ndarray]:
    """Rows of different lengths, padded on the right: texts, each after a square picture of one tile and its base."""
    from ega_jax.models import anyres

    rng = np.random.default_rng(int(pictures))
    side = config.image.tile_size
    sources = [anyres.token_sources([(side, side)] if pictures else [], config.image) for _ in range(rows)]
    words = rng.integers(10, 60, rows)
    visual = len(sources[0].index)
    length = visual + 64
    ids = rng.integers(10, 8000, (rows, length)).astype(np.int32)
    ids[:, :visual] = config.image_token_id
    mask = np.arange(length) < visual + words[:, None]
    index = np.zeros((rows, length, sources[0].index.shape[1] if pictures else 1), np.int32)
    weight = np.zeros(index.shape, np.float32)
    for row, source in enumerate(sources):
        if pictures:
            tiles = row * source.num_tiles
            index[row, :visual] = anyres.shift_tiles(source.index, tiles, config.image.features_per_tile)
            weight[row, :visual] = source.weight
    slots = sum(source.num_tiles for source in sources)
    tiles = rng.uniform(-1, 1, (slots, side, side, 3)).astype(np.float32)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "tiles": tiles,
        "visual_index": index,
        "visual_weight": weight,
    }


def count(config: Any, batches: list[dict[str, np.ndarray]]) -> tuple[int, float]:
    """(tokens of the decoder, products times two of a forward pass) of batches, padding included."""
    vision, text = config.vision, config.text
    key_size = text.num_key_value_heads * text.head_dim
    tokens, flops = 0, 0.0
    for inputs in batches:
        rows, length = inputs["input_ids"].shape
        tiles, patches = len(inputs["tiles"]), vision.num_patches
        per_patch = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
        flops += 2 * tiles * patches * vision.num_hidden_layers * (per_patch + 2 * patches * vision.hidden_size)
        flops += 2 * tiles * patches * text.hidden_size * (vision.hidden_size + text.hidden_size)
        per_token = 2 * text.hidden_size * (text.hidden_size + key_size) + 3 * text.hidden_size * text.intermediate_size
        # A causal query meets half of the keys.
        flops += 2 * rows * length * text.num_hidden_layers * (per_token + length * text.hidden_size)
        tokens += rows * length
    return tokens, flops


def jax_programs(config: Any, arguments: argparse.Namespace, pictures: Any, texts: Any) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import optax

    from ega_jax.models import Compute, build
    from ega_jax.models.functional import Functional
    from ega_jax.training.config import LossSettings, MeshSettings
    from ega_jax.training.sharding import make_mesh
    from ega_jax.training.step import initial_state, train_step

    gpu = arguments.platform == "gpu"
    # Torch keeps all activations in its step, so that is what is asked of both.
    compute = Compute(dtype="bfloat16" if gpu else "float32", remat="none")
    functional = Functional(lambda rngs: build(config, rngs=rngs, compute=compute))
    parameters = functional.initialize(0) if arguments.only == "jax" else functional.load(arguments.directory)
    embed = jax.jit(functional.embed)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5))
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    step = functools.partial(
        train_step, functional=functional, optimizer=optimizer, loss=LossSettings(temperature=TEMPERATURE), mesh=mesh
    )
    update = jax.jit(step, donate_argnums=0)
    labels = {name: jnp.arange(arguments.rows) for name in ("positives", "query_ids", "target_ids")}
    labels["target_mask"] = jnp.ones(arguments.rows, bool)
    groups = {name: jax.tree.map(lambda x: x[None], side) for name, side in (("queries", texts), ("targets", pictures))}
    states: list[Any] = []

    def train() -> float:
        if not states:
            states.append(initial_state(jax.tree.map(jnp.copy, parameters), optimizer, ()))
        states[0], metrics = update(states[0], {**groups, **labels})
        return float(metrics["loss"])

    return {
        "encode": lambda: np.asarray(embed(parameters, pictures)),
        "train step": train,
        "parameters": sum(leaf.size for leaf in functional.parameters.values()),
        "device": jax.devices()[0].device_kind if gpu else measure.machine(),
    }


def torch_programs(config: Any, arguments: argparse.Namespace, pictures: Any, texts: Any) -> dict[str, Any]:
    import torch
    import transformers

    device = "cuda" if arguments.platform == "gpu" else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = transformers.LlavaOnevisionModel.from_pretrained(arguments.directory, dtype=dtype).to(device)
    side = config.image.tile_size

    def inputs(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        given = {
            "input_ids": torch.tensor(arrays["input_ids"], dtype=torch.long),
            "attention_mask": torch.tensor(arrays["attention_mask"], dtype=torch.long),
        }
        if len(arrays["tiles"]):
            rows = len(arrays["input_ids"])
            tiles = arrays["tiles"].reshape(rows, -1, side, side, 3).transpose(0, 1, 4, 2, 3)
            given |= {
                "pixel_values": torch.tensor(tiles, dtype=dtype),
                "image_sizes": torch.tensor([[side, side]] * rows),
                "batch_num_images": torch.ones(rows, dtype=torch.long),
            }
        return {name: value.to(device) for name, value in given.items()}

    def embed(given: dict[str, Any]) -> Any:
        hidden = model(**given, use_cache=False).last_hidden_state
        last = given["attention_mask"].sum(1) - 1
        return torch.nn.functional.normalize(hidden[torch.arange(len(last)), last].float(), dim=-1)

    given_pictures, given_texts = inputs(pictures), inputs(texts)
    optimizers: list[Any] = []

    def encode() -> Any:
        with torch.no_grad():
            return embed(given_pictures).cpu().numpy()

    def train() -> float:
        if not optimizers:
            optimizers.append(torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=1e-4))
        logits = embed(given_texts) @ embed(given_pictures).T / TEMPERATURE
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
        optimizers[0].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers[0].step()
        return float(loss.detach())

    return {
        "encode": encode,
        "train step": train,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if device == "cuda" else measure.machine(),
    }


# ---------------------------------------------------------------- the page


def write_page() -> None:
    results = measure.Results(RESULTS, ("task",))
    lines = [PAGE]
    for model in ("small", "0.5b", "7b"):
        for platform in ("cpu", "gpu"):
            section = f"{model} {platform}"
            if section not in results:
                continue
            lines += [f"## {model}, {platform}\n", f"{results.origin(section)}.\n"]
            lines += [table(results.rows(section)) + "\n"]
    (ROOT / "docs/benchmarks/model.md").write_text("\n".join(lines))


def table(rows: list[dict[str, Any]]) -> str:
    body = []
    for row in rows:
        rate = row["flops"] / row["seconds"]["jax"]
        peak = next((flops for name, flops in PEAK_FLOPS.items() if name in row["device"]), None)
        body.append(
            [
                row["task"],
                f"{row['parameters'] / 1e6:.0f} M",
                f"{row['seconds']['torch']:.2f}" if "torch" in row["seconds"] else "",
                f"{row['seconds']['jax']:.2f}",
                "" if row["ratio"] is None else f"**{row['ratio']:.2f}**",
                " / ".join(f"{row['peak_gib'][name]:.1f}" for name in row["peak_gib"]),
                f"{row['tokens'] / row['seconds']['jax']:,.0f}",
                f"{rate / 1e9:,.0f}" + ("" if peak is None else f" ({rate / peak:.0%} of peak)"),
                row["rounds"],
            ]
        )
    header = [
        "task",
        "parameters",
        "torch, s",
        "jax, s",
        "ratio",
        "peak GiB, torch / jax",
        "tokens/s",
        "GFLOP/s",
        "rounds",
    ]
    return measure.table(header, body)


if __name__ == "__main__":
    main()
