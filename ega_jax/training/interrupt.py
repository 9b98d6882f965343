"""Stopping in good order: a signal is noted, and the loop ends at its next step with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupt:
    """Catches SIGTERM and SIGINT while it is entered; a second Ctrl-C stops at once.

    Of several processes, any one that gets a SIGTERM stops all, at a step that JAX's coordination service agrees on
    between them; it catches the signal itself from the moment that they have joined.
    """

    def __init__(self) -> None:
        self._noted: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def requested(self, step: int) -> str | None:
        """The name of the signal to stop for after `step`, or None. Ask once a step, on every process."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            return signal.SIGTERM.name
        return self._noted

    def __enter__(self) -> Interrupt:
        # Of several processes, Ctrl-C reaches one and stops it as it is; the others then end for want of it.
        for number in (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = signal.Signals(number).name
