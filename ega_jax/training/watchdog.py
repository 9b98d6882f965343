"""Ends a process that comes no further, and shows where it stands.

A process that waits for another inside a collective waits for ever: neither side raises anything. JAX's own heartbeats
end those whose neighbour has died; a neighbour that lives and hangs (a stuck read, a deadlock) sends heartbeats all the
same.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

_FAILED = 1
_STDERR = 2  # the file itself: a notebook's `sys.stderr` is none


class Watchdog:
    """While entered, ends the process with exit code 1 when nobody has called `alive` for so many seconds.

    It counts from the first call on: how long a start takes depends on the data.

    Attributes:
      doing: what was begun last.
    """

    def __init__(self, seconds: float | None = None) -> None:
        """
        Args:
          seconds: None waits for ever.
        """
        self.doing = "starting"
        self._seconds = seconds
        self._until: float | None = None
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def alive(self, doing: str) -> None:
        """The process has come further, and begins this."""
        with self._changed:
            self.doing = doing
            if self._seconds is not None:
                if self._until is None:
                    self._changed.notify()
                self._until = time.monotonic() + self._seconds

    def __enter__(self) -> Watchdog:
        faulthandler.enable(_STDERR)  # JAX aborts the process when heartbeats find another one dead: stacks then too
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._over:
                left = None if self._until is None else self._until - time.monotonic()
                if left is not None and left <= 0:
                    self._end()
                self._changed.wait(left)

    def _end(self) -> None:
        print(
            f"ega-jax: no sign of life for {self._seconds:.0f} s while {self.doing}: another process may be gone or "
            "stuck. Where this one stands (a step or compile that takes longer needs a larger "
            "--processes.stalled-after):",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(_STDERR, all_threads=True)
        os._exit(_FAILED)  # not sys.exit: the main thread would never see it
