"""One framework, one task, in a process of its own: what `benchmarks/model.py` starts."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import workers
from model_frameworks import JaxModel, TorchModel
from model_inputs import batch, count, model_config, save

TEMPERATURE = 0.05


@dataclasses.dataclass(frozen=True)
class Program:
    """A task that is ready to run: `run` returns its embeddings or its loss."""

    run: Callable[[], Any]
    parameters: int
    device: str


def serve(arguments: argparse.Namespace) -> None:
    """Runs the task for each line that comes in, and says what came out; in the end, the most memory ever held."""
    os.environ["JAX_PLATFORMS"] = "cuda" if arguments.platform == "gpu" else "cpu"
    if arguments.worker == "save":
        return save_all(arguments)
    if arguments.task == "one product":
        product = one_product(arguments)
        return workers.serve(lambda _: product())
    pictures, texts = (dict(np.load(arguments.directory / f"{name}.npz")) for name in ("pictures", "texts"))
    program = (jax_program if arguments.worker == "jax" else torch_program)(arguments, pictures, texts)
    known = {"parameters": program.parameters, "device": program.device}
    workers.serve(lambda _: {"value": np.asarray(program.run(), np.float64).tolist(), **known})


def save_all(arguments: argparse.Namespace) -> None:
    """Writes the weights, if torch is to read them too, and the inputs: that process need not import jax for them."""
    config = model_config(arguments.model)
    if arguments.only != "jax":
        save(config, arguments.directory)
    for name, inputs in zip(("pictures", "texts"), batches(config, arguments.rows), strict=True):
        np.savez(arguments.directory / f"{name}.npz", **inputs)


def batches(config: Any, rows: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Pictures and texts; one text alone would be no contrast."""
    return batch(config, rows, pictures=True), batch(config, max(rows, 2), pictures=False)


def work_of(task: str, model: str, rows: int) -> tuple[int, float]:
    """(tokens of the decoder, padding included; products times two) of one run of a task."""
    config = model_config(model)
    if task == "one product":
        tokens, _ = work_of("encode", model, rows)
        return tokens, 2.0 * tokens * config.text.hidden_size * config.text.intermediate_size
    sides = [count(config, inputs) for inputs in batches(config, rows)]
    if task == "encode":
        tokens, tower, decoder = sides[0]
        return tokens, tower + decoder
    tokens, tower, decoder = (sum(numbers) for numbers in zip(*sides, strict=True))
    # A gradient costs a forward pass for the activations and one for the kernels. By LoRA the kernels have none, and
    # nothing that the tower is made of is trained.
    return tokens, tower + 2 * decoder if task == "lora step" else 3 * (tower + decoder)


def one_product(arguments: argparse.Namespace) -> Callable[[], dict[str, Any]]:
    """Tokens of a batch times the first matrix of an MLP of the decoder; answers with a few entries."""
    text = model_config(arguments.model).text
    tokens, _ = work_of("encode", arguments.model, arguments.rows)
    rng = np.random.default_rng(0)
    shapes = ((tokens, text.hidden_size), (text.hidden_size, text.intermediate_size))
    left, right = (rng.normal(size=shape).astype(np.float32) / text.hidden_size**0.25 for shape in shapes)
    if arguments.worker == "jax":
        import jax

        left, right = jax.device_put((left, right))
        multiply = jax.jit(lambda a, b: a @ b)
    else:
        import torch

        left, right = torch.tensor(left), torch.tensor(right)
        multiply = torch.matmul

    def run() -> dict[str, Any]:
        product = np.asarray(multiply(left, right))
        return {"value": product[:2, :4].tolist(), "parameters": 0, "device": measure.machine()}

    return run


def jax_program(arguments: argparse.Namespace, pictures: Any, texts: Any) -> Program:
    import jax
    import jax.numpy as jnp
    import optax

    from ega_jax.models import Compute
    from ega_jax.training.config import LossSettings, MeshSettings
    from ega_jax.training.sharding import make_mesh
    from ega_jax.training.step import train_step

    gpu, task = arguments.platform == "gpu", arguments.task
    # "dots" is what torch's fused kernels do: they keep the results of matrix products, and find those of attention
    # and of what is done entry by entry again on the way back.
    compute = Compute(dtype="bfloat16" if gpu else "float32", remat="dots")
    directory = None if arguments.only == "jax" else arguments.directory
    model = JaxModel(
        model_config(arguments.model), directory, compute, lora=task == "lora step", trains=task != "encode"
    )
    device = jax.devices()[0].device_kind if gpu else measure.machine()
    if task == "encode":
        embed = jax.jit(model.functional.embed)
        return Program(lambda: np.asarray(embed(model.parameters, pictures)), model.size, device)

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5))
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    step = functools.partial(
        train_step,
        functional=model.functional,
        optimizer=optimizer,
        loss=LossSettings(temperature=TEMPERATURE),
        mesh=mesh,
    )
    rows, columns = len(pictures["input_ids"]), len(texts["input_ids"])
    inputs = {
        "queries": jax.tree.map(lambda x: x[None], pictures),
        "targets": jax.tree.map(lambda x: x[None], texts),
        "positives": jnp.arange(rows),
        "query_ids": jnp.arange(rows),
        "target_ids": jnp.arange(columns),
        "target_mask": jnp.ones(columns, bool),
    }
    inputs = jax.tree.map(jnp.asarray, inputs)
    states = [model.state(optimizer)]  # which each step writes in place, the weights too
    # Ahead of time: jit would compile again for a state that lies where the first step put it.
    update = jax.jit(step, donate_argnums=0).lower(states[0], inputs).compile()

    def train() -> float:
        states[0], metrics = update(states[0], inputs)
        return float(metrics["loss"])

    return Program(train, model.size, device)


def torch_program(arguments: argparse.Namespace, pictures: Any, texts: Any) -> Program:
    import torch

    device = "cuda" if arguments.platform == "gpu" else "cpu"
    model = TorchModel(arguments.directory, device, lora=arguments.task == "lora step")
    queries, targets = model.given(pictures), model.given(texts)

    def encode() -> Any:
        with torch.no_grad():
            return model.embed(queries).cpu().numpy()

    optimizer = torch.optim.AdamW(model.trained, lr=1e-5, weight_decay=1e-4)

    def train() -> float:
        logits = model.embed(queries) @ model.embed(targets).T / TEMPERATURE
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.trained, 1.0)
        optimizer.step()
        return float(loss.detach())

    return Program(
        encode if arguments.task == "encode" else train,
        model.size,
        torch.cuda.get_device_name() if device == "cuda" else measure.machine(),
    )
