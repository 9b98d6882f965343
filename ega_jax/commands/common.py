"""What several commands need: exit codes, messages, and the choice of subsets."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from ega_jax.data.bad_records import BadRecords

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 75

OnBadRecord = Literal["error", "skip"]


def first_positional(arguments: Sequence[str], what: str) -> tuple[Path | None, list[str]]:
    """The leading path, and the rest; None where help is asked for without one."""
    if arguments and not arguments[0].startswith("-"):
        return Path(arguments[0]), list(arguments[1:])
    if "--help" in arguments or "-h" in arguments:
        return None, ["--help"]
    raise BadInputError(f"give {what} first")


def select(found: Sequence[str], wanted: Sequence[str], directory: Path) -> list[str]:
    """The wanted subsets of those found, all if none is named."""
    if not found:
        raise BadInputError(
            f"{directory}: no subsets with such a split; expected DIR/<subset>/<split>*.parquet or .jsonl"
        )
    if missing := [name for name in wanted if name not in found]:
        near = difflib.get_close_matches(missing[0], found, n=1)
        raise BadInputError(
            f"{directory}: no subset {missing[0]!r}"
            + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(found)}")
        )
    return list(wanted or found)


def require_positive(chosen: Any, *names: str) -> None:
    """Raises BadInputError unless these numbers of a command are at least 1."""
    for name in names:
        if getattr(chosen, name) < 1:
            raise BadInputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(chosen, name)}")


def tell_skipped(name: str, skipped: BadRecords) -> None:
    if str(skipped):
        say(f"{name}: {skipped}")


def say(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"ega-jax: {message}")
