"""Training and scoring whole models on Glyphs by the command line, for benchmarks that compare runs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train(config: Path, run: Path, seed: int, steps: int, *options: Any, subsets: Sequence[str] = ()) -> float:
    """Trains and scores a run, or goes on with it; returns the seconds of training that was still to do."""
    began = time.perf_counter()
    often = ("--validation.every", "None", "--checkpoint.every", steps, "--log-every", min(steps, 20))
    names = ("--data.subsets", *subsets) if subsets else ()
    command("train", config, "--run-dir", run, "--seed", seed, "--steps", steps, *often, *names, *options)
    seconds = time.perf_counter() - began
    if not (run / "results.json").exists():
        command("eval", run, "--data", "glyphs", *(("--subsets", *subsets) if subsets else ()), "--no-untrained")
    return seconds


def results(run: Path) -> dict[str, Any]:
    """What `ega-jax eval` wrote."""
    content: dict[str, Any] = json.loads((run / "results.json").read_text())
    return content


def scores(run: Path) -> dict[str, float]:
    """hit@1 of each subset."""
    return {subset["name"]: subset["hit@1"] for subset in results(run)["subsets"]}


def command(*words: Any) -> None:
    """Runs `ega-jax` with these words."""
    subprocess.run([sys.executable, "-m", "ega_jax", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
