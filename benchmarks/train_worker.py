"""Whole train steps of one framework, in a process of its own: what `benchmarks/train.py` starts.

Each line that comes in is the size of a step, as in 16x2x64: rows of each side, rows of a chunk, room for the tokens
of a text. It is built when it first comes, on the same state as the others.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import workers
from model_frameworks import JaxModel, TorchModel, save_adapters
from model_inputs import batch, model_config, save, with_tiles

TEMPERATURE = 0.05
ALPHA, BETA = 5.0, 1.0  # of EGA, the defaults
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-4, 1e-4, 1.0
SIDES = ("queries", "targets")
NAMES = ("input_ids", "attention_mask", "tiles", "visual_index", "visual_weight")


class Size(NamedTuple):
    """Of a step: rows of each side, rows of a chunk, and room for the tokens of a text."""

    rows: int
    chunk: int
    room: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """
        Raises:
          ValueError: the text is no size, or chunks of so many rows do not come to so many.
        """
        size = cls(*map(int, text.split("x")))
        if size.rows % size.chunk:
            raise ValueError(f"size {text}: {size.chunk} must divide {size.rows}")
        return size

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @property
    def chunks(self) -> int:
        return self.rows // self.chunk


class Step(NamedTuple):
    """A train step of one size: `run` does one more and returns its loss."""

    run: Callable[[], float]
    temporaries: int | None
    """Bytes that the compiled program allocates beside what it is given and returns."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=["save", *PROGRAMS])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", default="small")
    parser.add_argument("--training", choices=["full", "lora"], default="full")
    parser.add_argument("--tile-size", type=int)
    parser.add_argument("--remat", default="dots", help="of layers, here")
    parser.add_argument("--sizes", nargs="*", default=[], help="what to save inputs for")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if arguments.framework == "save":
        return save_all(arguments)
    training = PROGRAMS[arguments.framework](arguments)
    known = {"parameters": training.size, "trained": training.trained}
    step = functools.cache(training.step)

    def answer(order: str) -> dict[str, Any]:
        made = step(Size.parse(order))
        told = {"loss": made.run(), "temporaries": made.temporaries, "peak_gib": workers.peak_gib(), **known}
        workers.forget_peak()
        return told

    workers.serve(answer)


def save_all(arguments: argparse.Namespace) -> None:
    """Writes weights, adapters and inputs, so that no process imports the other framework for them."""
    config = model_of(arguments)
    save(config, arguments.directory)
    save_adapters(config, arguments.directory)
    for size in arguments.sizes:
        save_inputs(config, Size.parse(size), arguments.directory)


def model_of(arguments: argparse.Namespace) -> Any:
    return with_tiles(model_config(arguments.model), arguments.tile_size)


def save_inputs(config: Any, size: Size, directory: Path) -> None:
    """Writes the chunks of queries and of targets, stacked: the same rows, whatever the chunks."""
    arrays = {}
    for number, side in enumerate(SIDES):
        whole = batch(config, size.rows, pictures=True, room=size.room, seed=number)
        # Every row has as many tiles as the others, and a chunk counts its own.
        whole["visual_index"] = np.concatenate([whole["visual_index"][: size.chunk]] * size.chunks)
        for name, array in whole.items():
            arrays[f"{side}/{name}"] = array.reshape(size.chunks, -1, *array.shape[1:])
    np.savez(directory / f"{size}.npz", **arrays)


def read_inputs(size: Size, directory: Path) -> list[dict[str, np.ndarray]]:
    """Of queries and of targets, each array with a leading axis of chunks."""
    arrays = dict(np.load(directory / f"{size}.npz"))
    return [{name: arrays[f"{side}/{name}"] for name in NAMES} for side in SIDES]


class JaxTraining:
    """The trainer's own step, compiled, with its state written in place."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import optax

        from ega_jax.models import Compute

        self._directory, lora = arguments.directory, arguments.training == "lora"
        self._model = JaxModel(model_of(arguments), self._directory, Compute(remat=arguments.remat), lora=lora)
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(CLIP), optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        )
        self._state = self._model.state(self._optimizer)
        self.size = self._model.size
        self.trained = sum(leaf.size for leaf in self._state["trained"].values())

    def step(self, size: Size) -> Step:
        import jax
        import jax.numpy as jnp

        from ega_jax.training.config import LossSettings, MeshSettings
        from ega_jax.training.sharding import make_mesh
        from ega_jax.training.step import train_step

        queries, targets = read_inputs(size, self._directory)
        ids = np.arange(size.rows)
        inputs = {
            "queries": queries,
            "targets": targets,
            "positives": ids,
            "query_ids": ids,
            "target_ids": ids,
            "target_mask": np.ones(size.rows, bool),
        }
        inputs = jax.tree.map(jnp.asarray, inputs)
        update = functools.partial(
            train_step,
            functional=self._model.functional,
            optimizer=self._optimizer,
            loss=LossSettings(temperature=TEMPERATURE, alpha=ALPHA, beta=BETA),
            mesh=make_mesh(MeshSettings(), jax.devices()[:1]),
        )
        compiled = jax.jit(update, donate_argnums=0).lower(self._state, inputs).compile()

        def run() -> float:
            self._state, metrics = compiled(self._state, inputs)
            return float(jax.block_until_ready((self._state, metrics))[1]["loss"])

        return Step(run, compiled.memory_analysis().temp_size_in_bytes)


class TorchTraining:
    """GradCache (arXiv 2101.06983) as it is written in torch, around transformers' model and peft's adapters."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import torch

        self._directory, lora = arguments.directory, arguments.training == "lora"
        self._model = TorchModel(self._directory, "cpu", lora=lora)
        if lora:
            self._model.load_adapters(self._directory)
        self._optimizer = torch.optim.AdamW(self._model.trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.size = self._model.size
        self.trained = sum(parameter.numel() for parameter in self._model.trained)

    def step(self, size: Size) -> Step:
        import torch

        both = [
            [self._model.given({name: array[i] for name, array in side.items()}) for i in range(size.chunks)]
            for side in read_inputs(size, self._directory)
        ]

        def run() -> float:
            with torch.no_grad():
                embeddings = [torch.cat([self._model.embed(chunk) for chunk in side]) for side in both]
            for embedded in embeddings:
                embedded.requires_grad_()
            value, amplified = ega(*embeddings)
            amplified.backward()
            self._optimizer.zero_grad()
            for side, embedded in zip(both, embeddings, strict=True):
                for chunk, gradient in zip(side, embedded.grad.split(size.chunk), strict=True):
                    (self._model.embed(chunk) * gradient).sum().backward()
            torch.nn.utils.clip_grad_norm_(self._model.trained, CLIP)
            self._optimizer.step()
            return float(value.detach())

        return Step(run, None)


def ega(queries: Any, targets: Any) -> tuple[Any, Any]:
    """(the loss, what has its gradient): InfoNCE, and InfoNCE with EGA's weights as margins that are held constant."""
    import torch

    similarity = queries @ targets.T
    closeness = (similarity - similarity.diagonal()[:, None]).detach()
    margin = torch.log1p(BETA * torch.exp(ALPHA * closeness)).fill_diagonal_(0)
    positives = torch.arange(len(queries))
    logits = similarity / TEMPERATURE
    cross_entropy = torch.nn.functional.cross_entropy
    return cross_entropy(logits, positives), cross_entropy(logits + margin, positives)


PROGRAMS = {"jax": JaxTraining, "torch": TorchTraining}

if __name__ == "__main__":
    main()
