"""Holds built packages to what they promise: `python tests/check_packages.py dist`. Exit code 1 says what fell short.

The wheel and the source distribution hold every file of the package, and nothing else; their
metadata are valid, name the licence and carry its text.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).parent.parent
SOURCE_ONLY = ("pyproject.toml", "README.md", "CHANGELOG.md", "configs/glyphs.py")
LARGEST_MB = 2


def main(directory: Path) -> int:
    (wheel,), (source,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    files = (path for path in (ROOT / "ega_jax").rglob("*") if path.is_file() and path.suffix != ".pyc")
    package = {path.relative_to(ROOT).as_posix() for path in files}

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (description,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(archive.read(description), validate=True)
    failures = _differences("the wheel", {name for name in names if ".dist-info/" not in name}, package)
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        failures.append("the wheel lacks LICENSE")
    if metadata.license_expression != "Apache-2.0" or not (metadata.description or "").startswith("# ega_jax"):
        failures.append("the wheel's metadata lack licence or README")

    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    failures += _differences("the source", {name for name in names if name.startswith("ega_jax/")}, package)
    failures += [f"the source lacks {name}" for name in (*SOURCE_ONLY, "LICENSE") if name not in names]
    failures += [f"{path.name} is large" for path in (wheel, source) if path.stat().st_size > LARGEST_MB * 1e6]

    print(*failures, f"{metadata.name} {metadata.version}: {len(failures)} failures", sep="\n")
    return 1 if failures else 0


def _differences(title: str, present: set[str], expected: set[str]) -> list[str]:
    lacking, foreign = sorted(expected - present), sorted(present - expected)
    return [f"{title} lacks {name}" for name in lacking] + [f"{title} holds {name}" for name in foreign]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
