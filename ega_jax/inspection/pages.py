"""What was found, and what records look like, as pages of one file each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from ega_jax import __version__
from ega_jax.data.records import EvalSubset, Side, TrainRows
from ega_jax.evaluation.report.charts import Distribution, histograms
from ega_jax.evaluation.report.gallery import thumbnail

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy import ndarray

    from ega_jax.inspection.verify import Findings

_MOST_BAD = 200
_MOST_CANDIDATES = 6

_STYLE = """
table.plain { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
table.plain td, table.plain th { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--rule); }
table.plain th:first-child, table.plain td.text { text-align: left; overflow-wrap: anywhere; }
.record { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 14px; margin: 12px 0; }
.side { background: var(--panel); border: 1px solid var(--rule); border-radius: 10px; padding: 10px 12px; }
.side { border-top: 3px solid var(--muted); }
.side.positive { border-top-color: var(--right); } .side.negative { border-top-color: var(--wrong); }
.side img { max-width: 100%; display: block; margin: 6px 0; }
.side pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: 4px 0 0; }
.side small { display: block; }
"""


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
        _section("Records", table),
        _section("Bad records", broken + bad_table + more),
        _section("Tokens", _panels(measured, 0, "tokens of a row, pictures included")),
        _section(unit.capitalize(), _panels(measured, 1, f"{unit} of a row")),
        _section("Suggested buckets", suggested),
    ]
    return _page(title, parts)


def records_page(title: str, subsets: Iterable[tuple[TrainRows | EvalSubset, Sequence[int]]]) -> str:
    """The page of `ega-jax data show`: the given rows of each subset, images beside text, negatives too."""
    parts = []
    for subset, rows in subsets:
        shown = [_eval_row(subset, row) if isinstance(subset, EvalSubset) else _train_row(subset, row) for row in rows]
        parts.append(_section(escape(subset.info.name), "".join(shown)))
    return _page(title, parts)


def _train_row(subset: TrainRows, row: int) -> str:
    record = subset[row]
    file, number = subset.location(row)
    sides = [_side("query", "query", record.query)]
    sides += [_side("positive", "positive", side) for side in record.positives]
    sides += [_side("negative", "negative", side) for side in record.negatives]
    return f'<h3>{escape(file.name)}, row {number}</h3><div class="record">{"".join(sides)}</div>'


def _eval_row(subset: EvalSubset, row: int) -> str:
    gold, *others = subset.candidates[row].tolist()
    sides = [_side("query", "query", subset.queries[row]), _side("positive", "right", subset.targets[gold])]
    sides += [_side("negative", "wrong", subset.targets[place]) for place in others[:_MOST_CANDIDATES]]
    more = len(others) - _MOST_CANDIDATES
    note = f"<small>and {more:,} more wrong ones</small>" if more > 0 else ""
    return f'<h3>query {row}</h3><div class="record">{"".join(sides)}</div>{note}'


def _side(kind: str, label: str, side: Side) -> str:
    pictures = ""
    for image in side.images:
        data = thumbnail(str(image))
        name = escape(str(image).rpartition("/images/")[2] or str(image))
        pictures += f'<img src="{data}" alt="{name}">' if data else f"<p>cannot be decoded: {name}</p>"
    # A newline at the end counts, so it is shown.
    text = escape(side.text).replace("\n", "↵\n")
    return f'<div class="side {kind}"><small>{label}</small>{pictures}<pre>{text}</pre></div>'


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


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _page(title: str, parts: Iterable[str]) -> str:
    style = (resources.files("ega_jax.evaluation.report") / "style.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · ega_jax</title><style>{style}{_STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1></header>{''.join(parts)}"
        f"<footer><p>ega_jax {escape(__version__)}</p></footer></main></body></html>\n"
    )
