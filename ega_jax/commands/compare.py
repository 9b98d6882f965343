"""`ega-jax compare`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ega_jax.commands.common import DONE
from ega_jax.errors import BadInputError
from ega_jax.files import write_whole

if TYPE_CHECKING:
    from ega_jax.evaluation import Results
    from ega_jax.evaluation.resampling import Difference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Is the second run better than the first, or was it luck? A paired test over the same queries.

    ega-jax compare runs/info_nce runs/ega
    """

    first: Annotated[Path, tyro.conf.Positional]
    """A directory that `ega-jax eval` wrote results.json and its details into, or the file."""
    second: Annotated[Path, tyro.conf.Positional]
    """Another, scored on the same data."""
    metric: Literal["hit@1", "hit@5", "hit@10", "mrr", "ndcg@5"] = "hit@1"
    seed: int = 0
    """Decides the resampling."""
    output: Path | None = None
    """A JSON file to write as well."""


def run(arguments: Sequence[str]) -> int:
    """Prints a Markdown table of differences with intervals and p-values."""
    from ega_jax.evaluation.resampling import compare
    from ega_jax.evaluation.tables import MEAN_TITLES, partial_note

    chosen = tyro.cli(Compare, args=arguments, prog="ega-jax compare")
    first, second = _load(chosen.first), _load(chosen.second)
    subsets, means = compare(first, second, metric=chosen.metric, seed=chosen.seed)
    for path, results in ((chosen.first, first), (chosen.second, second)):
        if note := partial_note(results):
            print(f"**{path}: {note}**\n")
    print(f"{chosen.metric} in percent: first {chosen.first}, second {chosen.second}\n")
    titles = ["", "First", "Second", "Difference", "95 % interval", "p", "p, Holm"]
    print(f"| {' | '.join(titles)} |\n| --- |{' ---: |' * (len(titles) - 1)}")
    for name, difference in (*subsets.items(), *((MEAN_TITLES.get(mean, mean), means[mean]) for mean in means)):
        print(_row(name, difference))
    if chosen.output:
        facts = {"metric": chosen.metric, "seed": chosen.seed, "first": str(chosen.first), "second": str(chosen.second)}
        tables = {"subsets": subsets, "means": means}
        found = {
            title: {name: {**dataclasses.asdict(row), "difference": row.difference} for name, row in table.items()}
            for title, table in tables.items()
        }
        document = {"schema": "ega_jax.comparison", "version": 1, **facts, **found}
        write_whole(chosen.output, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return DONE


def _row(name: str, difference: Difference) -> str:
    cells = [f"{100 * difference.first:.1f}", f"{100 * difference.second:.1f}", f"{100 * difference.difference:+.1f}"]
    cells += [f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}", f"{difference.p:.4f}"]
    cells.append("" if difference.p_adjusted is None else f"{difference.p_adjusted:.4f}")
    return "| " + " | ".join([name.replace("|", "\\|"), *cells]) + " |"


def _load(path: Path) -> Results:
    from ega_jax.evaluation import Results

    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise BadInputError(f"{path}: no results.json; run `ega-jax eval` first")
    return Results.load(file)
