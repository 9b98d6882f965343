"""What was mined, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ega_jax.evaluation.report.charts import Distribution, histograms
from ega_jax.inspection.cards import page, section, side_card

if TYPE_CHECKING:
    from ega_jax.data.records import TrainRows


def mining_page(title: str, subsets: Sequence[tuple[TrainRows, dict[str, Any]]]) -> str:
    """The page of `ega-jax mine`: counts, similarities, and rows with what was chosen for them.

    Args:
      title: of the page.
      subsets: the mined rows as they are read again, and the account of each subset.
    """
    counts = "".join(
        f'<tr><td class="text">{escape(rows.info.name)}</td><td>{told["rows"]:,}</td><td>{told["pool"]:,}</td>'
        f"<td>{told['mined'] / max(told['rows'], 1):.2f}</td><td>{told['short']:,}</td>"
        f"<td>{told['false_negatives'] / max(told['rows'], 1):.2f}</td></tr>"
        for rows, told in subsets
    )
    table = (
        '<table class="plain"><tr><th>subset</th><th>rows</th><th>targets</th><th>mined a row</th>'
        "<th>rows with fewer</th>"
        f"<th>too near to the positive, a row</th></tr>{counts}</table>"
    )
    panels = [
        (
            rows.info.name,
            [
                Distribution("positive", "trained", told["positive_similarity"]),
                Distribution("mined negatives", "negative", told["negative_similarity"]),
            ],
        )
        for rows, told in subsets
    ]
    charts = histograms(panels, alt="similarity to the query", x_label="cosine similarity to the query")
    parts = [
        section("Mined", table),
        section("Similarities", f'<div class="grid-of-panels">{"".join(charts)}</div>' if charts else ""),
    ]
    parts += [section(escape(rows.info.name), _rows(rows, told)) for rows, told in subsets]
    return page(title, parts)


def _rows(rows: TrainRows, told: dict[str, Any]) -> str:
    body = ""
    for row, similarities in zip(told["shown"], told["shown_similarity"], strict=True):
        record = rows[row]
        cards = [side_card("query", "query", record.query)]
        own = told["positive_similarity"][row]
        cards += [side_card("positive", f"positive · {own:.3f}", side) for side in record.positives]
        given = len(record.negatives) - len(similarities)
        labels = ["negative, given"] * given + [f"negative · {value:.3f}" for value in similarities]
        cards += [side_card("negative", label, side) for label, side in zip(labels, record.negatives, strict=True)]
        body += f'<h3>row {row}</h3><div class="record">{"".join(cards)}</div>'
    return body
