"""What was chosen instead of the right answer: the mistakes of each subset by how often they were made."""

from __future__ import annotations

import collections
from html import escape
from typing import TYPE_CHECKING, Any

from ega_jax.data.records import IMAGE_TOKEN
from ega_jax.evaluation.report.gallery import content
from ega_jax.evaluation.tables import META_TASK_TITLES, by_meta_task

if TYPE_CHECKING:
    from ega_jax.evaluation.details import SubsetDetails
    from ega_jax.evaluation.results import Results

MOST_LABELS = 12
"""Right answers of a subset that are shown as a matrix; with more, the most frequent mistakes are listed."""

MOST_LISTED = 6


def confusions(results: Results) -> str:
    """Returns a foldable part a subset that has a mistake; nothing where the details do not tell the answers."""
    details_of = {details.name: details for details in results.details}
    parts = []
    for meta_task, subsets in by_meta_task(results):
        folded = [
            shown
            for subset in subsets
            if subset.name in details_of
            and (shown := _subset(details_of[subset.name], out=subset.distribution == "out"))
        ]
        if folded:
            title = escape(META_TASK_TITLES.get(meta_task, meta_task))
            parts += [f'<h3 class="gallery-group">{title}</h3>', folded[0].replace("<details", "<details open", 1)]
            parts += folded[1:]
    return "".join(parts)


def _subset(details: SubsetDetails, *, out: bool) -> str:
    pairs = collections.Counter(
        (gold, first)
        for gold, first, rank in zip(details.gold, details.first, details.ranks, strict=False)
        if rank != 1
    )
    wrong = sum(pairs.values())
    if not wrong:
        return ""
    labels = sorted({*details.gold, *details.first}, key=lambda number: _name(details.items[number]))
    texts = all(not details.items[number]["images"] for number in labels)
    body = _matrix(details, labels) if texts and len(labels) <= MOST_LABELS else _list(details, pairs)
    tag = ' <em class="tag">OOD</em>' if out else ""
    return (
        f'<details class="subset"><summary><b>{escape(details.name)}</b>{tag}'
        f"<span>{wrong:,} of {len(details.ranks):,} wrong</span></summary>{body}</details>"
    )


def _matrix(details: SubsetDetails, labels: list[int]) -> str:
    """Right answers down, choices across; a cell's shade is its share of the row."""
    counts = collections.Counter(zip(details.gold, details.first, strict=True))
    rows = ""
    for gold in labels:
        total = sum(counts[gold, first] for first in labels)
        if not total:
            continue
        cells = ""
        for first in labels:
            count = counts[gold, first]
            kind = "hit" if first == gold else "slip"
            shade = f' style="--share:{60 * count / total:.0f}%"' if count else ""
            cells += f'<td class="{kind}"{shade}>{f"{count:,}" if count else "·"}</td>'
        rows += f"<tr><th>{escape(_name(details.items[gold]))}</th>{cells}<td>{total:,}</td></tr>"
    head = "".join(f"<th><span>{escape(_name(details.items[first]))}</span></th>" for first in labels)
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr><th>right ↓ chosen →</th>{head}<th>all</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _list(details: SubsetDetails, pairs: collections.Counter[tuple[int, int]]) -> str:
    often = [(pair, count) for pair, count in pairs.most_common(MOST_LISTED) if count > 1]
    magnets: collections.Counter[int] = collections.Counter()
    for (_, first), count in pairs.items():
        magnets[first] += count
    drawn = [(first, count) for first, count in magnets.most_common(MOST_LISTED) if count > 1]
    shown = details.items[details.gold[0]]["text"]
    texts = any(item["text"] != shown or not item["images"] for item in details.items.values())
    parts = []
    if often:
        cards = "".join(
            f'<li><b>{count}×</b><div class="mistake"><div>{_shown(details.items[gold], texts)}'
            "<small>right</small></div>"
            f"<span>→</span><div>{_shown(details.items[first], texts)}<small>chosen</small></div></div></li>"
            for (gold, first), count in often
        )
        parts.append(f'<h3>Most frequent mistakes</h3><ol class="mistakes">{cards}</ol>')
    else:
        parts.append("<h3>No mistake was made twice.</h3>")
    if drawn:
        cards = "".join(
            f'<li><b>{count}×</b><div class="mistake"><div>{_shown(details.items[first], texts)}</div></div></li>'
            for first, count in drawn
        )
        parts.append(f'<h3>Chosen wrongly most often</h3><ol class="mistakes">{cards}</ol>')
    return f'<div class="confusions">{"".join(parts)}</div>'


def _shown(item: dict[str, Any], texts: bool) -> str:
    return content(item, texts or not item["images"])


def _name(item: dict[str, Any]) -> str:
    text = " ".join(item["text"].replace(IMAGE_TOKEN, " ").split())
    return text if len(text) <= 24 else text[:23] + "…"
