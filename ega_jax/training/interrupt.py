"""Stopping in good order: a signal is noted, and the loop ends at its next step with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

_SECONDS_BETWEEN_WORDS = 30.0  # Spot machines are taken away so long after their signal


class StoppedError(Exception):
    """Raised out of what may be left half done (validation), after a signal; holds its name."""


class Interrupt:
    """Catches SIGTERM and SIGINT while it is entered; a second Ctrl-C stops at once.

    Of several processes, any one that gets a SIGTERM stops all, at a poll that JAX's coordination service agrees on
    between them; it catches the signal itself from the moment that they have joined.
    """

    def __init__(self, say: Callable[[str], None] = lambda message: None) -> None:
        """
        Args:
          say: is told of a signal at once, and every 30 s until the loop has come to act on it: a compile cannot be
            interrupted, and may outlast the time that a machine has left.
        """
        self._say = say
        self._noted: str | None = None
        self._polls = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._left = threading.Event()

    def requested(self) -> str | None:
        """The name of the signal to stop for, or None. All processes ask at the same places, equally often."""
        self._polls += 1
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(self._polls):
            self._noted = signal.SIGTERM.name
        return self._noted

    def leave_if_requested(self) -> None:
        """Raises StoppedError where there is a signal to stop for."""
        if stopped_by := self.requested():
            raise StoppedError(stopped_by)

    def __enter__(self) -> Interrupt:
        # Of several processes, Ctrl-C reaches one and stops it as it is; the others then end for want of it.
        if jax.process_count() > 1:
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        # Python calls a handler when the main thread is back from XLA; this pipe is written to at once.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._tell, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._previous:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._left.set()
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = signal.Signals(number).name

    def _tell(self) -> None:
        seconds = 0.0
        while (number := os.read(self._read, 1)) and number[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        while number and not self._left.is_set():
            name = signal.Signals(number[0]).name
            self._say(f"{name}" + (f" came {seconds:.0f} s ago" if seconds else ": saving and stopping"))
            self._left.wait(_SECONDS_BETWEEN_WORDS)
            seconds += _SECONDS_BETWEEN_WORDS
