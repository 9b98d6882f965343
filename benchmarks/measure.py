"""Measuring and reporting, for the benchmarks beside this file.

Machines drift, so what is compared runs in turn, round after round, and what is reported is the median of the rounds'
ratios. Results are kept in a JSON file, section by section: a long benchmark can be run in parts, and its page drawn
again from the file.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

MIB = 2**20


def interleave(
    programs: dict[str, Callable[[], Any]], seconds: float, min_rounds: int = 5, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Runs programs in turn until the time is up; each round starts with another, so that none profits from its place.

    Args:
        programs: Functions that return only when their work is done.
        seconds: How long to go on.
        min_rounds: How many rounds to run even then, at least one.
        warm_up: Run each once before.

    Returns:
        Seconds of each round, by program.
    """
    if warm_up:
        for run in programs.values():
            run()
    names, times = list(programs), {name: [] for name in programs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[names[-1]]) < max(min_rounds, 1):
        for name in names:
            start = time.perf_counter()
            programs[name]()
            times[name].append(time.perf_counter() - start)
        # The lists stay equally long: only the order within a round changes.
        names = names[1:] + names[:1]
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> float:
    """Returns the median of the rounds' ratios of one program's time to another's."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def milliseconds(times: list[float]) -> float:
    """Returns the median time."""
    return 1e3 * statistics.median(times)


class Results:
    """A JSON file of sections, each with the machine and the day of its measurement."""

    def __init__(self, path: Path, subject: Sequence[str] = ("chips", "rows", "features", "dtype", "exchange", "loss")):
        """
        Args:
            path: The file.
            subject: The fields that say what a row measured; rows are sorted by them.
        """
        self._path, self._subject = path, subject
        self._sections = json.loads(path.read_text()) if path.exists() else {}

    def save(self, section: str, rows: list[dict[str, Any]], device: str) -> None:
        """Puts rows in the place of a section's former ones that measured the same."""

        def subject(row: dict[str, Any]) -> list[Any]:
            values = [row.get(name) for name in self._subject]
            # Comparable, where some rows have a number, some a name and some nothing.
            return [(value is not None, isinstance(value, str), value or 0) for value in values]

        new = [subject(row) for row in rows]
        kept = [row for row in self.rows(section) if subject(row) not in new]
        self._sections[section] = {
            "rows": sorted(kept + rows, key=subject),
            "device": device,
            "date": datetime.date.today().isoformat(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._sections, indent=1) + "\n")

    def rows(self, section: str) -> list[dict[str, Any]]:
        """Returns a section's rows, none where it was not run."""
        return self._sections.get(section, {}).get("rows", [])

    def origin(self, section: str) -> str:
        """Says on what and when a section was measured."""
        entry = self._sections[section]
        return f"{entry['device']}, {entry['date']}"

    def __contains__(self, section: str) -> bool:
        return section in self._sections


def judge(
    what: str, value: float | None, target: float, *, at_least: bool = False, form: str = "{:.3f}"
) -> tuple[str, str, str, str]:
    """A row of a table of targets: what was measured (None: nothing), what it should be, and whether it is."""
    wanted = f"{'≥' if at_least else '≤'} {target:g}"
    if value is None:
        return what, "not measured", wanted, ""
    passed = value >= target if at_least else value <= target
    return what, form.format(value), wanted, "pass" if passed else "**miss**"


def machine() -> str:
    """Describes the host's processor."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
