"""Real processes that are one run: on this machine, over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(
    command: Callable[[int], Sequence[str]], log: Path, *, processes: int, devices: int, compiled: Path
) -> list[subprocess.Popen]:
    """Starts a command as so many processes; with one alone, it is given no word of the others.

    Args:
      command: the words of each process, by its number; the flags that make them one are added.
      log: what each says goes to `log.NUMBER.log`.
      processes: how many.
      devices: of each.
      compiled: a directory for compiled programs.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = cheap_environment(compiled, devices=devices)
    started = []
    for index in range(processes):
        flags = ["--processes.coordinator", f"localhost:{port}", "--processes.count", str(processes)]
        flags += ["--processes.index", str(index)]
        words = [*command(index), *(flags if processes > 1 else [])]
        with log.with_name(f"{log.name}.{index}.log").open("a") as output:
            started.append(subprocess.Popen(words, stdout=output, stderr=output, env=environment, cwd=ROOT))
    return started


def cheap_environment(compiled: Path | None = None, *, devices: int = 1) -> dict[str, str]:
    """In which a process compiles in a quarter of the time, and runs slower.

    Args:
      compiled: a directory for compiled programs.
      devices: that it sees.
    """
    environment = {
        **os.environ,
        "XLA_FLAGS": xla_flags(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    if compiled is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(compiled)
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return environment


def xla_flags(devices: int) -> str:
    """Virtual devices, and the older of XLA's two generators of code for CPUs: it takes less than half of the time."""
    return f"--xla_force_host_platform_device_count={devices} --xla_cpu_use_fusion_emitters=false"


def finish(log: Path, started: Sequence[subprocess.Popen], timeout: float = 300) -> tuple[list[int], str]:
    """Waits for all of them; their exit codes, and what they said."""
    codes = [process.wait(timeout) for process in started]
    return codes, "\n".join(path.read_text() for path in sorted(log.parent.glob(f"{log.name}.*.log")))
