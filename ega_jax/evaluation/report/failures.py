"""Where runs fail, side by side: the same queries, and what each run chose."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from ega_jax.evaluation.report.gallery import content, ordinal
from ega_jax.evaluation.tables import META_TASK_TITLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ega_jax.evaluation.details import Example, SubsetDetails
    from ega_jax.evaluation.report.run_files import RunFiles
    from ega_jax.evaluation.results import SubsetResult

MOST_QUERIES = 90
"""Queries on the whole page: with up to 6 thumbnails of some KB each, it stays within some 2 MB."""


def failures(runs: Sequence[RunFiles]) -> str:
    """Returns a foldable part a subset: queries that a run answered wrongly, those on which runs disagree first.

    Only subsets that all runs were asked the same questions of are shown.
    """
    scored = [run.results for run in runs if run.results is not None]
    if len(scored) < 2 or len(scored) < len(runs):
        return ""
    tables = [{subset.name: subset for subset in results.subsets} for results in scored]
    details = [{one.name: one for one in results.details} for results in scored]
    common = [
        subset
        for subset in scored[0].subsets
        if all(subset.name in one for one in details)
        and len({table[subset.name].items for table in tables}) == 1
        and len({len(one[subset.name].ranks) for one in details}) == 1
    ]
    each = max(MOST_QUERIES // max(len(common), 1), 2)
    names = [run.name for run in runs]
    parts = []
    for meta_task in dict.fromkeys(subset.meta_task for subset in common):
        folded = [
            shown
            for subset in common
            if subset.meta_task == meta_task
            and (shown := _subset(subset, names, [one[subset.name] for one in details], each))
        ]
        if folded:
            title = escape(META_TASK_TITLES.get(meta_task, meta_task))
            parts += [f'<h3 class="gallery-group">{title}</h3>', folded[0].replace("<details", "<details open", 1)]
            parts += folded[1:]
    return "".join(parts)


def _subset(subset: SubsetResult, names: Sequence[str], details: Sequence[SubsetDetails], count: int) -> str:
    known: dict[int, Example] = {}
    for one in details:
        for example in one.examples:
            known.setdefault(example.query_index, example)
    wrong = {query: sum(one.ranks[query] != 1 for one in details) for query in known}
    failed = [query for query in known if wrong[query]]
    failed.sort(key=lambda query: (wrong[query] == len(details), query))  # first those that some run answers
    if not failed:
        return ""
    cards = "".join(_card(known[query], names, details) for query in failed[:count])
    tag = ' <em class="tag">OOD</em>' if subset.distribution == "out" else ""
    shares = " · ".join(
        f"{name} {sum(rank != 1 for rank in one.ranks):,}" for name, one in zip(names, details, strict=True)
    )
    return (
        f'<details class="subset"><summary><b>{escape(subset.name)}</b>{tag}'
        f"<span>wrong of {subset.queries:,}: {escape(shares)}</span></summary>{cards}</details>"
    )


def _card(example: Example, names: Sequence[str], details: Sequence[SubsetDetails]) -> str:
    query = example.query_index
    choices = [_choice(example, one) for one in details]
    shown = [example.gold, *(item for item in choices if item is not None)]
    pictures = any(item["images"] for item in shown)
    texts = len({item["text"] for item in shown}) > 1 or not pictures
    tiles = (
        f'<li class="answer"><span class="mark">right answer</span><div class="content">{content(example.gold, texts)}'
    )
    tiles += "</div></li>"
    for name, one, item in zip(names, details, choices, strict=True):
        rank = one.ranks[query]
        mark = "✓ right" if rank == 1 else f"✗ right answer {ordinal(rank)}"
        chosen = "" if rank == 1 else content(item, texts) if item is not None else "<p>(its choice was not kept)</p>"
        best = one.positive_similarity[query] if rank == 1 else one.hardest_negative_similarity[query]
        tiles += (
            f'<li class="{"gold" if rank == 1 else "miss"}"><b>{escape(name)}</b><span class="mark">{mark}</span>'
            f'<div class="content">{chosen}</div><span class="score">{_number(best)}</span></li>'
        )
    return (
        f'<article class="card side-by-side"><div class="query">{content(example.query)}</div>'
        f'<ol class="tiles">{tiles}</ol></article>'
    )


def _choice(example: Example, details: SubsetDetails) -> dict[str, Any] | None:
    """What a run ranked first for the query of an example; None where its file does not tell."""
    query = example.query_index
    if details.ranks[query] == 1:
        return example.gold
    return details.items.get(details.first[query]) if details.first else None


def _number(similarity: float | None) -> str:
    return "" if similarity is None else f"{similarity:.3f}"
