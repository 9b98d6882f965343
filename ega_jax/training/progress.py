"""Progress on stderr: a live bar where someone watches, plain lines where a file does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """How far a run is. Silent on all processes but the first."""

    def __init__(self, console: Console | None = None, *, silent: bool = False) -> None:
        self._console = console or Console(stderr=True, quiet=silent, highlight=False)

    def note(self, message: str) -> None:
        """Text of its own line or lines."""
        self._console.print(message, soft_wrap=True, markup=False)

    def counter(self, what: str, total: int) -> Callable[[int], None]:
        """A function that is told of items done, and says so now and then."""
        done, said = 0, time.monotonic()

        def advance(items: int) -> None:
            nonlocal done, said
            done += items
            if time.monotonic() - said > _SECONDS_BETWEEN_LINES or done >= total:
                said = time.monotonic()
                self.note(f"{what}: {done:,} of {total:,}")

        return advance

    @contextlib.contextmanager
    def pause(self, what: str) -> Iterator[None]:
        """Says what the loop is doing instead of training, and for how long it did."""
        began = time.monotonic()
        yield
        self.note(f"{what} took {time.monotonic() - began:.1f} s")

    @contextlib.contextmanager
    def steps(self, done: int, total: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
        """A bar over training steps; yields a function of (steps done, last metrics)."""
        began, first, said = time.monotonic(), done, 0.0

        def describe(metrics: Mapping[str, float]) -> str:
            shown = {
                "loss": "loss",
                "hardness/amplification_mean": "amplification",
                "hardness/violations": "violations",
                "examples_per_s": "examples/s",
                "mfu": "MFU",
            }
            return "  ".join(f"{label} {metrics[name]:.4g}" for name, label in shown.items() if name in metrics)

        if not self._console.is_terminal:

            def line(step: int, metrics: Mapping[str, float]) -> None:
                nonlocal said
                now = time.monotonic()
                if now - said > _SECONDS_BETWEEN_LINES or step == total:
                    said = now
                    left = (now - began) / max(step - first, 1) * (total - step)
                    self.note(f"step {step}/{total}  {describe(metrics)}  {left:.0f} s left")

            yield line
            return
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        with Bars(*columns, console=self._console) as bars:
            task = bars.add_task("", total=total, completed=done)
            yield lambda step, metrics: bars.update(task, completed=step, description=describe(metrics))
