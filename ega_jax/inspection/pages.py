"""What was found, and what records look like, as pages of one file each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from ega_jax.data.records import EvalSubset, TrainRows
from ega_jax.evaluation.report.charts import Distribution, histograms
from ega_jax.inspection.cards import page, section, side_card

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy import ndarray

    from ega_jax.inspection.verify import Findings

_MOST_BAD = 200
_MOST_CANDIDATES = 6


def verification_page(title: str, found: Sequence[Findings], unit: str, buckets: dict[str, tuple[int, ...]]) -> str:
    """The page of `ega-jax data verify`.

    Args:
      title: of the page.
      found: what was found.
      unit: what image slots are.
      buckets: suggested sizes by the name of the setting.
    """
    counts = "".join(
        f'<tr><td class="text">{escape(one.info.name)}</td><td class="text">{one.split}</td><td>{one.rows:,}</td>'
        f"<td>{'unreadable' if one.broken else f'{len(one.bad):,}'}</td><td>{sum(one.mended.values()):,}</td>"
        f"<td>{len(one.duplicates):,}</td></tr>"
        for one in found
    )
    table = (
        '<table class="plain"><tr><th>subset</th><th>split</th><th>rows</th><th>bad</th><th>mended</th>'
        f"<th>duplicates</th></tr>{counts}</table>"
    )
    bad = [error for one in found for error in one.bad]
    lines = "".join(
        f'<tr><td class="text">{escape(str(error.file))}</td><td>{error.row}</td>'
        f'<td class="text">{escape(error.field)}</td><td class="text">{escape(error.reason)}</td></tr>'
        for error in bad[:_MOST_BAD]
    )
    broken = "".join(f"<p>{escape(one.broken)}</p>" for one in found if one.broken)
    more = f"<p>and {len(bad) - _MOST_BAD:,} more</p>" if len(bad) > _MOST_BAD else ""
    bad_table = (
        '<table class="plain"><tr><th>file</th><th>row</th><th>field</th><th>reason</th></tr>' + lines + "</table>"
        if lines
        else ""
    )
    suggested = "".join(f"<p><code>data.{name} = {ladder}</code></p>" for name, ladder in buckets.items())
    measured = [one for one in found if len(one.query_sizes)]
    parts = [
        section("Records", table),
        section("Bad records", broken + bad_table + more),
        section("Tokens", _panels(measured, 0, "tokens of a row, pictures included")),
        section(unit.capitalize(), _panels(measured, 1, f"{unit} of a row")),
        section("Suggested buckets", suggested),
    ]
    return page(title, parts)


def records_page(title: str, subsets: Iterable[tuple[TrainRows | EvalSubset, Sequence[int]]]) -> str:
    """The page of `ega-jax data show`: the given rows of each subset, images beside text, negatives too."""
    parts = []
    for subset, rows in subsets:
        shown = [_eval_row(subset, row) if isinstance(subset, EvalSubset) else _train_row(subset, row) for row in rows]
        parts.append(section(escape(subset.info.name), "".join(shown)))
    return page(title, parts)


def _train_row(subset: TrainRows, row: int) -> str:
    record = subset[row]
    file, number = subset.location(row)
    sides = [side_card("query", "query", record.query)]
    sides += [side_card("positive", "positive", side) for side in record.positives]
    sides += [side_card("negative", "negative", side) for side in record.negatives]
    return f'<h3>{escape(file.name)}, row {number}</h3><div class="record">{"".join(sides)}</div>'


def _eval_row(subset: EvalSubset, row: int) -> str:
    gold, *others = subset.candidates[row].tolist()
    sides = [side_card("query", "query", subset.queries[row]), side_card("positive", "right", subset.targets[gold])]
    sides += [side_card("negative", "wrong", subset.targets[place]) for place in others[:_MOST_CANDIDATES]]
    more = len(others) - _MOST_CANDIDATES
    note = f"<small>and {more:,} more wrong ones</small>" if more > 0 else ""
    return f'<h3>query {row}</h3><div class="record">{"".join(sides)}</div>{note}'


def _panels(found: Sequence[Findings], column: int, x_label: str) -> str:
    if not found:
        return ""
    panels = [
        (
            one.info.name,
            [
                Distribution("query", "trained", _values(one.query_sizes, column)),
                Distribution("targets", "negative", _values(one.target_sizes, column)),
            ],
        )
        for one in found
    ]
    charts = histograms(panels, alt=f"Histograms: {x_label}", x_label=x_label)
    return f'<div class="grid-of-panels">{"".join(charts)}</div>'


def _values(sizes: Int[ndarray, "n 2"], column: int) -> list[float]:
    return sizes[:, column].astype(float).tolist()
