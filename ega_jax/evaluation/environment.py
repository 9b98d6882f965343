"""What a result was computed with: versions and devices, for the files and pages that show it."""

from __future__ import annotations

import platform
from importlib import metadata

import jax

from ega_jax import __version__

PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def environment() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers, the machine's architecture, and JAX's devices."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "ega_jax": __version__,
        **{package: metadata.version(package) for package in PACKAGES},
        "machine": platform.machine(),
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processes": str(jax.process_count()),
    }
