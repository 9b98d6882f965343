"""Kills a run again and again at random moments, lets it finish, and compares it with one that was left alone.

    python -m tests.kill_and_resume --kills 20

SIGKILL gives a process no chance to tidy up: whatever it was doing (starting, compiling, training, in the middle of a
checkpoint or of a line of metrics) stays as it was. Afterwards every array of the last checkpoint and every metric but
timings must be equal, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from ega_jax.training.checkpoint import Checkpoints
from ega_jax.training.setup import make_setup
from ega_jax.training.speed import NAMES as TIMINGS
from ega_jax.training.state import abstract_state_of

from . import micro
from .colours import write_colours
from .processes import cheap_environment

_STRIDE = 10  # steps that a killed process has trained, at most
EXPERIMENT = Path(__file__).parent / "micro.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kills = compare(Path(scratch), options.kills, options.seed)
    print(f"{sum(kills.values())} kills ({kills}): the final parameters and all metrics are those of a run left alone")


def compare(scratch: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Runs both, asserts that they are equal, and returns how often the run was killed at which stage."""
    data = write_colours(scratch / "data")
    steps = 2 * _STRIDE * kills
    alone = Run(scratch / "alone", data, steps)
    began = time.monotonic()
    assert alone.start().wait() == 0, alone.log.read_text()
    duration = time.monotonic() - began

    killed = Run(scratch / "killed", data, steps)
    moments = random.Random(seed)
    stages: dict[str, int] = {}
    for _ in range(kills):
        process = killed.start()
        wait_for_a_moment(process, killed, moments, duration)
        assert process.poll() is None, "it ended before it could be killed: " + killed.log.read_text()
        process.send_signal(signal.SIGKILL)
        process.wait()
        stage = killed.stage()
        stages[stage] = stages.get(stage, 0) + 1
    assert killed.start().wait() == 0, killed.log.read_text()

    assert killed.metrics() == alone.metrics()
    jax.tree.map(np.testing.assert_array_equal, killed.state(), alone.state())
    return stages


def wait_for_a_moment(process: subprocess.Popen, run: Run, moments: random.Random, duration: float) -> None:
    """Waits until the process has trained a random number of steps; one time in three, for a random time at most."""
    target = run.last_step() + moments.randint(1, _STRIDE)
    latest = time.monotonic() + (moments.random() * 0.3 if moments.random() < 0.33 else 10) * duration
    while process.poll() is None and run.last_step() < target and time.monotonic() < latest:
        time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.03))  # a step and a save take about as long


class Run:
    """One run of the micro experiment in a process of its own."""

    def __init__(self, run_dir: Path, data: Path, steps: int) -> None:
        self.run_dir, self.data, self.steps = run_dir, data, steps
        self.log = run_dir.with_suffix(".log")

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "ega_jax", "train", str(EXPERIMENT), "--run-dir", str(self.run_dir)]
        settings = {"data.directory": self.data, "steps": self.steps, "checkpoint.every": 2, "validation.every": 8}
        command += [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        environment = cheap_environment(self.run_dir.parent / "compiled")
        with self.log.open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=EXPERIMENT.parents[1])

    def stage(self) -> str:
        """What it had come to, for the summary."""
        if any((self.run_dir / "checkpoints").glob("*tmp*")):
            return "while saving"
        return "while training" if self.last_step() else "while starting"

    def last_step(self) -> int:
        """The last step of which metrics.jsonl tells."""
        lines = self.metrics() if (self.run_dir / "metrics.jsonl").exists() else []
        return int(lines[-1]["step"]) if lines else 0

    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl without timings; one that is not whole is left out."""
        lines = []
        for line in (self.run_dir / "metrics.jsonl").read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                lines.append({name: value for name, value in json.loads(line).items() if name not in TIMINGS})
        return lines

    def state(self) -> dict:
        """Every array of the last checkpoint."""
        setup = make_setup(micro.config, self.run_dir / "model")
        abstract = abstract_state_of(micro.config, setup)
        with Checkpoints(self.run_dir / "checkpoints", micro.config.checkpoint) as checkpoints:
            assert checkpoints.latest == self.steps
            return jax.tree.map(np.asarray, checkpoints.restore(abstract))


if __name__ == "__main__":
    main()
