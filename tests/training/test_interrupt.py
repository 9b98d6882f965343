"""A signal is told of when it comes, not when the main thread is back from XLA."""

import hashlib
import os
import signal
import threading
import time

import pytest

from ega_jax.training.interrupt import Interrupt, StoppedError


def busy_without_python():
    """Long in C code, as in a compile: handlers of signals wait for its end."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)


def test_a_signal_is_told_of_while_the_main_thread_is_in_c():
    said = []
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt(lambda message: said.append((time.monotonic(), message))) as interrupt:
        assert interrupt.requested() is None
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        busy_without_python()
        ended = time.monotonic()
        time.sleep(0.1)
        assert interrupt.requested() == "SIGTERM"
        with pytest.raises(StoppedError, match="SIGTERM"):
            interrupt.leave_if_requested()
    assert [message for _, message in said] == ["SIGTERM: saving and stopping"]
    assert said[0][0] < ended
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_stops_at_once():
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested() == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_without_a_signal_nothing_is_said():
    with Interrupt(pytest.fail) as interrupt:
        assert interrupt.requested() is None
