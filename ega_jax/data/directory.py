"""Where data is: a directory in MMEB's schema, the hub's copy of one, or the embedded dataset by its name."""

from __future__ import annotations

import os
from pathlib import Path

from ega_jax.errors import BadInputError

GLYPHS = "glyphs"
HUB = "hf://datasets/"


def data_directory(name: str, seed: int = 0) -> Path:
    """The directory that `name` stands for; "glyphs" is rendered on first use and cached.

    Args:
      name: a path, also of a repository in the hub's cache; "hf://datasets/OWNER/NAME[@REVISION]", which is downloaded
        to that cache; or "glyphs".
      seed: of the embedded dataset.

    Raises:
      BadInputError: there is no such directory, or it cannot be downloaded.
    """
    if name.startswith(HUB):
        return _downloaded(*name.removeprefix(HUB).partition("@")[::2])
    if name == GLYPHS:
        from ega_jax.data import glyphs  # draws: not for those who only ask where data is

        return glyphs.prepare(cache_directory() / f"glyphs-{seed}", seed=seed)
    path = Path(name).expanduser()
    if not path.is_dir():
        raise BadInputError(
            f"{path}: no such directory; give one in MMEB's schema, or {GLYPHS!r} for the embedded data"
        )
    return _snapshot(path) if (path / "snapshots").is_dir() else path


def _snapshot(repository: Path) -> Path:
    """The revision that the hub's cache holds of a repository (datasets--OWNER--NAME)."""
    main = repository / "refs" / "main"
    held = sorted(home.name for home in (repository / "snapshots").iterdir() if home.is_dir())
    chosen = main.read_text().strip() if main.is_file() else held[0] if len(held) == 1 else None
    if chosen not in held:
        raise BadInputError(f"{repository}: a repository of the hub's cache, but which of its snapshots? Give one")
    return repository / "snapshots" / str(chosen)


def _downloaded(repository: str, revision: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(repository, repo_type="dataset", revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInputError(
            f"{HUB}{repository} cannot be downloaded, and the hub's cache does not hold it ({reason}); "
            "give the directory of a local copy"
        ) from None


def cache_directory() -> Path:
    """`$EGA_JAX_CACHE`, or `ega_jax` in the user's cache directory."""
    if chosen := os.environ.get("EGA_JAX_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ega_jax"
