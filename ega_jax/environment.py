"""What something was computed with: versions and devices, for the files and pages that show it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ega_jax import __version__
from ega_jax.files import write_whole

if TYPE_CHECKING:
    import jax

ENVIRONMENT = "environment.jsonl"
"""Of a run directory: what it was trained in, a line for each change: `from_step` steps were done by then, and
`to_step` are planned."""

PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def environment(mesh: jax.sharding.Mesh | None = None) -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers, the machine's architecture, JAX's devices, and how
    they are laid out where that is given."""
    import jax  # reading what was recorded needs no jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "ega_jax": __version__,
        **{package: metadata.version(package) for package in PACKAGES},
        "machine": platform.machine(),
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processes": str(jax.process_count()),
        **({} if mesh is None else {"mesh": " x ".join(f"{name} {size}" for name, size in mesh.shape.items())}),
    }


def record_environment(path: Path, from_step: int, to_step: int, facts: Mapping[str, str]) -> None:
    """Adds what a run goes on in to `environment.jsonl`, unless it is what it ran in before."""
    known = read_environments(path)
    kept = [line for line in known if line["from_step"] <= from_step]  # what came of later steps was lost
    now = {"from_step": from_step, "to_step": to_step, **facts}
    if not kept or {**kept[-1], "from_step": from_step} != now:
        kept = [*(line for line in kept if line["from_step"] < from_step), now]
    if kept != known:
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))


def read_environments(path: Path) -> list[dict[str, Any]]:
    """The lines of `environment.jsonl`; none where it is absent, and what cannot be read is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
            found.append({**entry, "from_step": int(entry["from_step"]), "to_step": int(entry["to_step"])})
        except (ValueError, KeyError, TypeError):
            continue
    return found
