"""One framework, one task, in a process of its own: what `benchmarks/model.py` starts."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import measure
import numpy as np

TEMPERATURE = 0.05
LORA_RANK, LORA_ALPHA = 8, 16


@dataclasses.dataclass(frozen=True)
class Program:
    """A task that is ready to run: `run` returns its embeddings or its loss."""

    run: Callable[[], Any]
    parameters: int
    device: str


def serve(arguments: argparse.Namespace) -> None:
    """Runs the task for each line that comes in, and says what came out; in the end, the most memory ever held."""
    os.environ["JAX_PLATFORMS"] = "cuda" if arguments.platform == "gpu" else "cpu"
    config = model_config(arguments.model)
    if arguments.worker == "save":
        return save(config, arguments.directory)
    # One text alone would be no contrast.
    pictures, texts = (
        batch(config, arguments.rows, pictures=True),
        batch(config, max(arguments.rows, 2), pictures=False),
    )
    make = jax_program if arguments.worker == "jax" else torch_program
    program = make(config, arguments, pictures, texts)
    tokens, flops = work_of(arguments.task, config, pictures, texts)
    known = {"parameters": program.parameters, "tokens": tokens, "flops": flops, "device": program.device}
    for line in sys.stdin:
        if line.strip() == "stop":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({"peak_gib": peak}), flush=True)
            return
        print(json.dumps({"value": np.asarray(program.run(), np.float64).tolist(), **known}), flush=True)


def model_config(name: str) -> Any:
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


def work_of(task: str, config: Any, pictures: Any, texts: Any) -> tuple[int, float]:
    """(tokens of the decoder, padding included; products times two) of one run of a task."""
    if task == "encode":
        tokens, tower, decoder = count(config, pictures)
        return tokens, tower + decoder
    sides = [count(config, side) for side in (pictures, texts)]
    tokens, tower, decoder = (sum(numbers) for numbers in zip(*sides, strict=True))
    # A gradient costs a forward pass for the activations and one for the kernels. By LoRA the kernels have none, and
    # nothing that the tower is made of is trained.
    return tokens, tower + 2 * decoder if task == "lora step" else 3 * (tower + decoder)


def count(config: Any, inputs: Mapping[str, np.ndarray]) -> tuple[int, float, float]:
    """(tokens, and products times two of a forward pass of the tower with its projector, and of the decoder)."""
    vision, text = config.vision, config.text
    rows, length = inputs["input_ids"].shape
    tiles, patches = len(inputs["tiles"]), vision.num_patches
    per_patch = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    tower = 2 * tiles * patches * vision.num_hidden_layers * (per_patch + 2 * patches * vision.hidden_size)
    tower += 2 * tiles * patches * text.hidden_size * (vision.hidden_size + text.hidden_size)
    key_size = text.num_key_value_heads * text.head_dim
    per_token = 2 * text.hidden_size * (text.hidden_size + key_size) + 3 * text.hidden_size * text.intermediate_size
    # A causal query meets half of the keys.
    decoder = 2 * rows * length * text.num_hidden_layers * (per_token + length * text.hidden_size)
    return rows * length, float(tower), float(decoder)


def jax_program(config: Any, arguments: argparse.Namespace, pictures: Any, texts: Any) -> Program:
    import jax
    import jax.numpy as jnp
    import optax

    from ega_jax.models import Compute, LoraConfig, build
    from ega_jax.models.functional import Functional
    from ega_jax.training.config import LossSettings, MeshSettings, ModelSettings
    from ega_jax.training.roles import Role, held_dtypes, roles_of
    from ega_jax.training.sharding import make_mesh
    from ega_jax.training.step import initial_state, train_step

    gpu, task = arguments.platform == "gpu", arguments.task
    # "dots" is what torch's fused kernels do: they keep the results of matrix products, and find those of attention
    # and of what is done entry by entry again on the way back.
    compute = Compute(dtype="bfloat16" if gpu else "float32", remat="dots")
    lora = LoraConfig(rank=LORA_RANK if task == "lora step" else 0, alpha=LORA_ALPHA)
    functional = Functional(lambda rngs: build(config, rngs=rngs, compute=compute, lora=lora))
    settings = ModelSettings(dtype=compute.dtype, lora=lora)
    paths = functional.parameters
    roles = dict.fromkeys(paths, Role.FROZEN) if task == "encode" else roles_of(paths, settings)
    dtypes = held_dtypes(functional, roles, settings)
    if arguments.only == "jax":
        parameters = functional.initialize(0, dtypes=dtypes)
    else:
        adapters = [path for path, role in roles.items() if role is Role.ADAPTER]
        given = functional.load(arguments.directory, dtypes=dtypes)
        parameters = {**given, **functional.initialize(0, paths=adapters)}
    size = sum(leaf.size for leaf in paths.values())
    device = jax.devices()[0].device_kind if gpu else measure.machine()
    if task == "encode":
        embed = jax.jit(functional.embed)
        return Program(lambda: np.asarray(embed(parameters, pictures)), size, device)

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5))
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    step = functools.partial(
        train_step, functional=functional, optimizer=optimizer, loss=LossSettings(temperature=TEMPERATURE), mesh=mesh
    )
    update = jax.jit(step, donate_argnums=0)
    rows, columns = len(pictures["input_ids"]), len(texts["input_ids"])
    inputs = {
        "queries": jax.tree.map(lambda x: x[None], pictures),
        "targets": jax.tree.map(lambda x: x[None], texts),
        "positives": jnp.arange(rows),
        "query_ids": jnp.arange(rows),
        "target_ids": jnp.arange(columns),
        "target_mask": jnp.ones(columns, bool),
    }
    states = [initial_state(parameters, optimizer, roles)]  # which each step writes in place, the weights too

    def train() -> float:
        states[0], metrics = update(states[0], inputs)
        return float(metrics["loss"])

    return Program(train, size, device)


def torch_program(config: Any, arguments: argparse.Namespace, pictures: Any, texts: Any) -> Program:
    import torch
    import transformers

    device = "cuda" if arguments.platform == "gpu" else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = transformers.LlavaOnevisionModel.from_pretrained(arguments.directory, dtype=dtype).to(device)
    if arguments.task == "lora step":
        import peft

        adapters = peft.LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=r".*language_model.*_proj")
        model = peft.get_peft_model(model, adapters)
    side = config.image.tile_size

    def given(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        inputs = {
            "input_ids": torch.tensor(arrays["input_ids"], dtype=torch.long),
            "attention_mask": torch.tensor(arrays["attention_mask"], dtype=torch.long),
        }
        if len(arrays["tiles"]):
            rows = len(arrays["input_ids"])
            tiles = arrays["tiles"].reshape(rows, -1, side, side, 3).transpose(0, 1, 4, 2, 3)
            inputs |= {
                "pixel_values": torch.tensor(tiles, dtype=dtype),
                "image_sizes": torch.tensor([[side, side]] * rows),
                "batch_num_images": torch.ones(rows, dtype=torch.long),
            }
        return {name: value.to(device) for name, value in inputs.items()}

    def embed(inputs: dict[str, Any]) -> Any:
        hidden = model(**inputs, use_cache=False).last_hidden_state
        last = inputs["attention_mask"].sum(1) - 1
        return torch.nn.functional.normalize(hidden[torch.arange(len(last)), last].float(), dim=-1)

    queries, targets = given(pictures), given(texts)

    def encode() -> Any:
        with torch.no_grad():
            return embed(queries).cpu().numpy()

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=1e-4)

    def train() -> float:
        logits = embed(queries) @ embed(targets).T / TEMPERATURE
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return float(loss.detach())

    return Program(
        encode if arguments.task == "encode" else train,
        sum(parameter.numel() for parameter in model.parameters()),
        torch.cuda.get_device_name() if device == "cuda" else measure.machine(),
    )
