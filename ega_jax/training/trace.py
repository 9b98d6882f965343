"""A profiler's trace of some steps, on demand: `ega-jax train ... --profile-steps 10:13`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from ega_jax.errors import BadInputError


class Trace:
    """Records the steps of a window, for xprof (TensorBoard's profile page) or Perfetto."""

    def __init__(self, steps: str | None, directory: Path, note: Callable[[str], None]) -> None:
        """
        Args:
          steps: "FIRST:LAST", from 1; None records nothing.
          directory: gets the trace.
          note: is told when it is there.

        Raises:
          BadInputError: it is no such window.
        """
        self._first, self._last = (0, 0) if steps is None else _window(steps)
        self._directory, self._note, self._on = directory, note, False

    def before(self, step: int) -> None:
        """This step is about to be dispatched."""
        if step == self._first:
            jax.profiler.start_trace(str(self._directory))
            self._on = True

    def after(self, step: int, result: Any) -> None:
        """It was dispatched, and gives this."""
        if self._on and step == self._last:
            jax.block_until_ready(result)
            self._stop()

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on:  # the run ended inside the window
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._on = False
        self._note(f"the trace of steps {self._first} to {self._last} is in {self._directory}")


def _window(steps: str) -> tuple[int, int]:
    first, colon, last = steps.partition(":")
    if not (first.isdecimal() and colon and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise BadInputError(f"--profile-steps {steps}: give FIRST:LAST, such as 10:13, counted from 1")
    return int(first), int(last)
