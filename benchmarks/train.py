"""The whole train step: GradCache in chunks, both sides with pictures, the loss, clipping, AdamW; all or LoRA.

    python benchmarks/train.py step                       beside the same in torch: transformers, peft, GradCache
    python benchmarks/train.py gradcache                  chunks against one big batch
    python benchmarks/train.py linear                     chunks, batch and length against time and memory
    python benchmarks/train.py                            all three
    python benchmarks/train.py step --training lora --sizes 16x4x64 --rounds 5

A size is rows of each side x rows of a chunk x room for the tokens of a text. Results are kept in
docs/benchmarks/train.json, from which the page is drawn. What runs, in processes of one framework each, is in
`train_worker.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
import train_page
from train_worker import Size, read_inputs
from workers import Worker

ROOT = Path(__file__).parents[1]
SUBJECT = ("training", "rows", "chunk", "room")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a section measures unless it is told otherwise.

    Attributes:
      sizes: of the steps.
      training: what is trained.
      tile_size: pixels; None is the model's own.
      remat: of layers, here; "dots" is what torch's fused kernels do.
      rounds: how often what is compared is repeated.
    """

    sizes: tuple[str, ...]
    training: tuple[str, ...] = ("full", "lora")
    tile_size: int | None = None
    remat: str = "none"
    rounds: int = 3


# Smaller tiles where activations of a whole batch are held without any remat.
SECTIONS = {
    "step": Setup(("4x2x64",), remat="dots"),
    "gradcache": Setup(("16x2x64",), tile_size=112),
    "linear": Setup(
        ("8x4x64", "8x2x64", "8x1x64", "4x2x64", "16x2x64", "4x2x320", "4x2x576"),
        training=("lora",),
        tile_size=112,
        rounds=2,
    ),
}


def main() -> None:
    arguments = parse()
    results = measure.Results(arguments.results, SUBJECT)
    for section in [] if arguments.page_only else arguments.sections or SECTIONS:
        given = {name: getattr(arguments, name) for name in ("sizes", "training", "tile_size", "remat", "rounds")}
        setup = dataclasses.replace(SECTIONS[section], **{name: value for name, value in given.items() if value})
        with tempfile.TemporaryDirectory() as directory:
            rows = list(globals()[f"measure_{section}"](setup, Workplace(Path(directory), setup, arguments)))
        results.save(section, rows, f"{measure.machine()}, huge pages")
    arguments.page.write_text(train_page.render(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all if none")
    parser.add_argument("--model", default="small", help="small (about 50M), tiny, 0.5b")
    parser.add_argument("--training", nargs="*", choices=["full", "lora"])
    parser.add_argument("--sizes", nargs="*", help="as in 16x2x64")
    parser.add_argument("--tile-size", type=int, help="pixels")
    parser.add_argument("--remat", choices=["none", "dots", "full"], help="of layers, here")
    parser.add_argument("--seconds", type=float, default=0, help="how long to repeat what is compared")
    parser.add_argument("--rounds", type=int, help="how often even if that takes longer")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/benchmarks/train.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/benchmarks/train.md")
    parser.add_argument("--page-only", action="store_true", help="draw the page again from the kept results")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(unknown)}")
    return arguments


# ---------------------------------------------------------------------------------------------------------- sections


def measure_step(setup: Setup, place: Workplace) -> Iterator[dict[str, Any]]:
    """This project's step and torch's: the same weights, adapters and inputs, checked after every step."""
    for size, training in place.cases(setup):
        workers = {name: place.worker(name, training) for name in ("torch", "jax")}
        answers = place.interleave({name: (worker, size) for name, worker in workers.items()})
        yield report(
            {
                **described(size, training, place, answers),
                "ratio": measure.ratio(answers.seconds, "torch", "jax"),
                "parameters": answers.last["jax"]["parameters"],
                "trained": answers.last["jax"]["trained"],
                "first_gib": answers.first_gib,
                "later_gib": answers.later_gib,
                "losses": answers.losses,
                "difference": check_same(*answers.losses.values()),
            }
        )


def measure_gradcache(setup: Setup, place: Workplace) -> Iterator[dict[str, Any]]:
    """Chunks and one big batch, of the same rows: so the losses are the same too."""
    for size, training in place.cases(setup):
        sizes = {"whole": size._replace(chunk=size.rows), "chunks": size}
        workers = {name: place.worker("jax", training) for name in sizes}
        answers = place.interleave({name: (worker, sizes[name]) for name, worker in workers.items()})
        yield report(
            {
                **described(size, training, place, answers),
                "ratio": measure.ratio(answers.seconds, "chunks", "whole"),
                "share": answers.last["chunks"]["temporaries"] / answers.last["whole"]["temporaries"],
                "trained": answers.last["chunks"]["trained"],
                "first_gib": answers.first_gib,
                "later_gib": answers.later_gib,
                "difference": check_same(*answers.losses.values()),
            }
        )


def measure_linear(setup: Setup, place: Workplace) -> Iterator[dict[str, Any]]:
    """Steps of several sizes, on one state in turn."""
    for training in setup.training:
        worker = place.worker("jax", training)
        sizes = [Size.parse(size) for size in setup.sizes]
        answers = place.interleave({str(size): (worker, size) for size in sizes})
        for size in sizes:
            name = str(size)
            tokens = place.tokens(size)
            seconds = statistics.median(answers.seconds[name])
            yield report(
                {
                    "training": training,
                    **size._asdict(),
                    "tokens": tokens,
                    "rounds": len(answers.seconds[name]),
                    "seconds": seconds,
                    "microseconds_a_token": 1e6 * seconds / (2 * size.rows * tokens),
                    "temporaries_mib": answers.last[name]["temporaries"] / measure.MIB,
                }
            )


def described(size: Size, training: str, place: Workplace, answers: Answers) -> dict[str, Any]:
    """What every comparison tells."""
    return {
        "training": training,
        **size._asdict(),
        "tokens": place.tokens(size),
        "rounds": len(next(iter(answers.seconds.values()))),
        "seconds": {name: statistics.median(times) for name, times in answers.seconds.items()},
        "temporaries_mib": {
            name: answer["temporaries"] / measure.MIB for name, answer in answers.last.items() if answer["temporaries"]
        },
    }


def check_same(one: list[float], other: list[float]) -> float:
    """The largest difference of the losses of the same steps.

    Raises:
      AssertionError: those of the first, from the same weights, differ by more than 1e-4, or later ones by 1e-3.
    """
    np.testing.assert_allclose(one[0], other[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)
    return float(np.max(np.abs(np.subtract(one, other))))


def report(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), flush=True)
    return row


# ----------------------------------------------------------------------------------------------------------- running


@dataclasses.dataclass
class Answers:
    """Of programs that ran in turn, by name.

    Attributes:
      seconds: of each timed round.
      losses: of all steps, the first one too, which is not timed.
      first_gib: the most memory that the process held until the end of the first step: loading, compiling, running.
      later_gib: the same of the timed steps.
      last: the last answer.
    """

    seconds: dict[str, list[float]]
    losses: dict[str, list[float]]
    first_gib: dict[str, float]
    later_gib: dict[str, float]
    last: dict[str, dict[str, Any]]


class Workplace:
    """A directory with weights and inputs, and the processes that read them."""

    def __init__(self, directory: Path, setup: Setup, arguments: argparse.Namespace) -> None:
        self._directory, self._arguments, self._rounds = directory, arguments, setup.rounds
        self._options = [f"--model={arguments.model}", f"--remat={setup.remat}"]
        self._options += [f"--tile-size={setup.tile_size}"] if setup.tile_size else []
        sizes = {Size.parse(size) for size in setup.sizes}
        sizes |= {size._replace(chunk=size.rows) for size in sizes}
        subprocess.run([*self._command("save"), "--sizes", *map(str, sorted(sizes))], check=True)

    def cases(self, setup: Setup) -> Iterator[tuple[Size, str]]:
        for size in setup.sizes:
            for training in setup.training:
                yield Size.parse(size), training

    def worker(self, framework: str, training: str) -> Worker:
        return Worker([*self._command(framework), f"--training={training}"])

    def tokens(self, size: Size) -> int:
        """Of the decoder, in a row of either side, padding included."""
        return read_inputs(size, self._directory)[0]["input_ids"].shape[-1]

    def interleave(self, programs: dict[str, tuple[Worker, Size]]) -> Answers:
        """Steps of each in turn, and the end of their processes; the first of each, which compiles, is not timed."""
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}

        def run(name: str) -> None:
            worker, size = programs[name]
            answers[name].append(worker.run(str(size)))
            step, loss = len(answers[name]), answers[name][-1]["loss"]
            print(f"{name}: step {step}, loss {loss:.5f}", file=sys.stderr, flush=True)

        runs = {name: (lambda name=name: run(name)) for name in programs}
        seconds = measure.interleave(runs, self._arguments.seconds, self._rounds)
        for worker in {worker for worker, _ in programs.values()}:
            worker.stop()
        return Answers(
            seconds,
            losses={name: [answer["loss"] for answer in given] for name, given in answers.items()},
            first_gib={name: given[0]["peak_gib"] for name, given in answers.items()},
            later_gib={name: max(answer["peak_gib"] for answer in given[1:]) for name, given in answers.items()},
            last={name: given[-1] for name, given in answers.items()},
        )

    def _command(self, framework: str) -> list[str | Path]:
        return [sys.executable, Path(__file__).with_name("train_worker.py"), framework, self._directory, *self._options]


if __name__ == "__main__":
    main()
