"""Processes of one framework each, so that the memory of each is known: a line in, the work is done, a line out."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""The environment of every worker. Both frameworks take and return hundreds of megabytes every step, and in pages of
4 KiB the kernel's part of that is much of the time; `make demo` sets the same."""


class Worker:
    """A process that runs `serve`, seen from the one that started it."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **HUGE_PAGES}
        )

    def run(self, order: str = "run") -> dict[str, Any]:
        """Has an order done.

        Raises:
          RuntimeError: the process ended instead; why stands on stderr.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process ended with {self._process.wait()} at {order!r}")
        return json.loads(answer)

    def stop(self) -> float:
        """Ends the process; its peak memory in GiB."""
        peak = self.run("stop")["peak_gib"]
        self._process.wait()
        return peak


def serve(answer: Callable[[str], dict[str, Any]]) -> None:
    """Answers each line that comes in; to "stop", with the most memory that this process ever held, and returns."""
    for line in sys.stdin:
        order = line.strip()
        if order == "stop":
            print(json.dumps({"peak_gib": peak_gib()}), flush=True)
            return
        print(json.dumps(answer(order)), flush=True)


def peak_gib() -> float:
    """The most memory that this process had resident since it began, or since `forget_peak`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def forget_peak() -> None:
    """Lets `peak_gib` begin anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
