"""`ega-jax report`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ega_jax.commands.common import DONE
from ega_jax.errors import BadInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html of a run from what lies in its directory; of several, a page that compares them too.

    ega-jax report runs/demo

    ega-jax report runs/info_nce runs/ega --output comparison.html
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories; the first is what the others are compared with."""
    output: Path = Path("comparison.html")
    """The page that compares several runs."""


def run(arguments: Sequence[str]) -> int:
    """Writes the report of each run, and the comparison of several."""
    from ega_jax.evaluation.report import write_comparison, write_report

    chosen = tyro.cli(Report, args=arguments, prog="ega-jax report")
    if not chosen.runs:
        raise BadInputError("give at least one run directory")
    for run_dir in chosen.runs:
        if not (run_dir / "config.json").is_file():
            raise BadInputError(f"{run_dir}: not a run directory (it has no config.json)")
        print(write_report(run_dir))
    if len(chosen.runs) > 1:
        print(write_comparison(chosen.runs, chosen.output))
    return DONE
