"""Where the time of a run goes, and what comes of it: shares of a step, throughput, memory, MFU, goodput."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax

from ega_jax.files import write_whole

if TYPE_CHECKING:
    from ega_jax.training.step import State

NAMES = (
    "examples_per_s",
    "tokens_per_s",
    "data_wait_share",
    "host_share",
    "device_wait_share",
    "goodput",
    "mfu",
    "device_memory_gb",
    "host_memory_gb",
)
"""Of the metrics that two equal runs need not share."""

_PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}
"""Dense bfloat16 products a second of one device, by the start of its name: the makers' data sheets."""

_Part = Literal["data", "host", "device"]


def peak_flops(kind: str) -> float | None:
    """The peak of a device of this kind, or None where it is not known."""
    known = [name for name in _PEAK_FLOPS if kind == name or kind.startswith(name + " ")]
    # "TPU v5 lite" is no kind of "TPU v5".
    return _PEAK_FLOPS[max(known, key=len)] if known else None


def flops_per_token(state: State) -> float:
    """Model FLOPs of a token: 4 a parameter (forward, and back to the inputs), and 2 more a trained one.

    So 6 P in full training and about 4 P with LoRA. Attention's products of queries and keys are left out, and
    recomputation is no model FLOP.
    """
    trained, frozen = (sum(leaf.size for leaf in jax.tree.leaves(state[name])) for name in ("trained", "frozen"))
    return 6.0 * trained + 4.0 * frozen


class StepClock:
    """Divides the time of the loop, between two lines of metrics and over all restarts of a run."""

    def __init__(self, run_dir: Path, *, resumed: bool, batch_size: int, flops_per_token: float) -> None:
        """
        Args:
          run_dir: where the time trained so far is kept with each checkpoint.
          resumed: whether the run goes on from one.
          batch_size: of the global batch.
          flops_per_token: of the model.
        """
        self._file = run_dir / "goodput.json"
        self._batch_size, self._flops_per_token = batch_size, flops_per_token
        before = _read(self._file) if resumed else {}
        self._began, self._trained = before.get("began", time.time()), before.get("trained_s", 0.0)
        self._restart()

    def _restart(self) -> None:
        self._line, self._paused, self._steps, self._tokens = time.perf_counter(), 0.0, 0, 0
        self._spent: dict[_Part, float] = {"data": 0.0, "host": 0.0, "device": 0.0}

    @contextlib.contextmanager
    def spent(self, part: _Part) -> Iterator[None]:
        """The time within went to waiting for a batch, to placing and dispatching it, or to waiting for the device."""
        began = time.perf_counter()
        yield
        self._spent[part] += time.perf_counter() - began

    @contextlib.contextmanager
    def waiting_for_data(self, while_running: Any) -> Iterator[None]:
        """The time within went to waiting for a batch, or to the device if it had a step to run all the while.

        Args:
          while_running: a result of the last step that was dispatched, or None.
        """
        began = time.perf_counter()
        yield
        part: _Part = "data" if while_running is None or while_running.is_ready() else "device"
        self._spent[part] += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time within trained nothing: compiling, validating, saving."""
        began = time.perf_counter()
        yield
        self._paused += time.perf_counter() - began

    def stepped(self, batch: Mapping[str, Any]) -> None:
        """One more step, on this process's part of a batch."""
        self._steps += 1
        self._tokens += sum(int(batch[side]["attention_mask"].sum()) for side in ("queries", "targets"))

    def line(self) -> dict[str, float]:
        """Metrics of the time since the last line."""
        seconds = self._useful()
        self._trained += seconds
        tokens_per_s = self._tokens * jax.process_count() / seconds
        found = {
            "examples_per_s": self._steps * self._batch_size / seconds,
            "tokens_per_s": tokens_per_s,
            "data_wait_share": self._spent["data"] / seconds,
            "host_share": self._spent["host"] / seconds,
            "device_wait_share": self._spent["device"] / seconds,
            "goodput": self._trained / max(time.time() - self._began, 1e-9),
            **memory(),
        }
        if peak := peak_flops(jax.devices()[0].device_kind):
            found["mfu"] = tokens_per_s * self._flops_per_token / (peak * jax.device_count())
        self._restart()
        return found

    def save(self) -> None:
        """Keeps what was trained up to now beside the checkpoint that holds it: what a restart does again is not
        counted twice."""
        write_whole(self._file, json.dumps({"began": self._began, "trained_s": self._trained + self._useful()}))

    def _useful(self) -> float:
        return max(time.perf_counter() - self._line - self._paused, 1e-9)


def memory() -> dict[str, float]:
    """The most that this process has held until now, on its first device (where the backend tells) and the host, GB."""
    stats = jax.local_devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"host_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    if "peak_bytes_in_use" in stats:
        found["device_memory_gb"] = stats["peak_bytes_in_use"] / 1e9
    return found


def _read(file: Path) -> dict[str, float]:
    """What a process before kept; nothing where it was killed before its first checkpoint, or the file is no JSON."""
    try:
        return {name: float(value) for name, value in json.loads(file.read_text()).items()}
    except (OSError, ValueError):
        return {}
