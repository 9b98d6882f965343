"""For which platform programs are traced: the one that runs here, or another that they are compiled for."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_TARGET: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


def target_platform() -> str:
    """One of cpu, gpu and tpu: what choices between kernels and block sizes go by."""
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """What is traced within is for `platform`, whatever runs here."""
    token = _TARGET.set(platform)
    jax.clear_caches()  # traces of inner functions do not know for which platform they were made
    try:
        yield
    finally:
        _TARGET.reset(token)
        jax.clear_caches()
