"""Results as a table: Markdown for files, rich for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from ega_jax.evaluation.results import Results, Scores

META_TASK_TITLES = {
    "classification": "Classification",
    "vqa": "Visual question answering",
    "retrieval": "Retrieval",
    "grounding": "Visual grounding",
    "other": "Other",
}

MEAN_TITLES = {
    "all": "All",
    "in": "In distribution",
    "out": "Out of distribution",
    **META_TASK_TITLES,
    "macro": "Macro (mean of meta-tasks)",
}


def markdown_table(results: Results, baseline: Results | None = None) -> str:
    """Returns the results as a Markdown table in percent, means last, with a note where subsets are missing.

    Args:
      results: what to show.
      baseline: what to compare with; adds its hit@1 and the difference in points.
    """
    header, rows = _cells(results, baseline)
    alignment = ["---" if column < _TEXT_COLUMNS else "---:" for column in range(len(header))]
    note = partial_note(results)
    heading = [f"**{note}**", ""] if note else []
    lines = []
    for cells in [header, alignment, *(cells for _, cells in rows)]:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*heading, *lines]) + "\n"


def results_table(results: Results, baseline: Results | None = None) -> Table:
    """Returns the same table as `markdown_table` for `rich.print`."""
    from rich.table import Table
    from rich.text import Text

    header, rows = _cells(results, baseline)
    table = Table(caption=partial_note(results) or None, caption_style="bold yellow")
    for column, title in enumerate(header):
        table.add_column(title, justify="left" if column < _TEXT_COLUMNS else "right", no_wrap=True)
    previous = ""
    for kind, cells in rows:
        if previous and kind != previous:
            table.add_section()
        previous = kind
        # Text, because a subset's name may hold what rich takes for markup.
        table.add_row(*map(Text, cells), style="bold" if kind == "mean" else "")
    return table


def partial_note(results: Results) -> str:
    """Returns a line that says which subsets of the suite are missing; empty if none is."""
    if results.complete:
        return ""
    total = len(results.subsets) + len(results.missing)
    return (
        f"Partial: {len(results.subsets)} of {total} subsets of {results.suite}; means are over these alone. "
        f"Missing: {', '.join(results.missing)}"
    )


_TEXT_COLUMNS = 2


def _cells(results: Results, baseline: Results | None) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Returns the header and, for each row, its kind ("subset" or "mean") and its cells."""
    header = ["Subset", "Meta-task", "Queries", "Pool", "Chance", "hit@1", "± s.e."]
    header += ["Baseline", "Change"] if baseline else []
    header += ["hit@5", "hit@10", "MRR", "nDCG@5"]
    before_subsets = {subset.name: subset.scores for subset in baseline.subsets} if baseline else None
    before_means = {name: mean.scores for name, mean in baseline.means.items()} if baseline else None
    rows = []
    for subset in results.subsets:
        name = subset.name + (" (out)" if subset.distribution == "out" else "")
        first = [name, META_TASK_TITLES.get(subset.meta_task, subset.meta_task)]
        first += [str(subset.queries), f"{subset.pool_size:.6g}"]
        rows.append(("subset", first + _score_cells(subset.scores, before_subsets, subset.name)))
    for name, mean in results.means.items():
        first = [MEAN_TITLES.get(name, name), f"{mean.subsets} subset{'s' * (mean.subsets != 1)}", "", ""]
        rows.append(("mean", first + _score_cells(mean.scores, before_means, name)))
    return header, rows


def _score_cells(scores: Scores, before: dict[str, Scores] | None, name: str) -> list[str]:
    percent = {metric: f"{100 * value:.1f}" for metric, value in scores.metrics.items()}
    cells = [f"{100 * scores.chance:.1f}", percent["hit@1"], f"{100 * scores.standard_error:.1f}"]
    if before is not None:
        old = before.get(name)
        difference = f"{100 * (scores.hit_at_1 - old.hit_at_1):+.1f}" if old else ""
        cells += [f"{100 * old.hit_at_1:.1f}" if old else "", difference]
    return cells + [percent[metric] for metric in ("hit@5", "hit@10", "mrr", "ndcg@5")]
