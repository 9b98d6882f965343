"""Results as a table: Markdown for files, rich for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from ega_jax.evaluation.results import Results, Scores, SubsetResult

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
    "macro": "Macro (over meta-tasks)",
}


def markdown_table(results: Results, baseline: Results | None = None) -> str:
    """Returns the results as a Markdown table in percent, means last, with a note where subsets are missing.

    Args:
      results: what to show.
      baseline: what to compare with; adds its hit@1 and the difference in points.
    """
    titles = ["Chance", "hit@1", "± s.e.", *(["95 % interval"] if results.confidence else [])]
    titles += ["Baseline", "Change"] if baseline else []
    titles += ["hit@5", "hit@10", "MRR", "nDCG@5"]
    rows = [["Subset", "Meta-task", "Queries", "Pool", *titles], ["---", "---", *["---:"] * (2 + len(titles))]]
    for meta_task, subsets in by_meta_task(results):
        for subset in subsets:
            cells = score_cells(subset.scores, _subset_scores(baseline, subset.name))
            name = f"{subset.name} (out)" if subset.distribution == "out" else subset.name
            first = [name, META_TASK_TITLES.get(meta_task, meta_task), str(subset.queries)]
            rows.append([*first, f"{subset.pool_size:.6g}", *(cells[title] for title in titles)])
    for name, mean in results.means.items():
        cells = score_cells(mean.scores, _mean_scores(baseline, name))
        first = [MEAN_TITLES.get(name, name), f"{mean.subsets} subset{'s' * (mean.subsets != 1)}", "", ""]
        rows.append([*first, *(cells[title] for title in titles)])
    note = partial_note(results)
    lines = [f"**{note}**", ""] if note else []
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def results_table(results: Results, baseline: Results | None = None) -> Table:
    """Returns the main columns of `markdown_table` for `rich.print`, in groups, to fit into 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    titles = ["Chance", "hit@1", "± s.e.", *(["Baseline", "Change"] if baseline else []), "hit@5"]
    caption = "\n".join(filter(None, ["* out of distribution", partial_note(results)]))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=Text(caption), caption_justify="left")
    table.add_column("Subset", overflow="fold")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True, min_width=len(title))
    for meta_task, subsets in by_meta_task(results):
        table.add_row(Text(META_TASK_TITLES.get(meta_task, meta_task), style="bold"))
        for subset in subsets:
            cells = score_cells(subset.scores, _subset_scores(baseline, subset.name))
            # Text, because a subset's name may hold what rich takes for markup.
            table.add_row(
                Text(f"  {subset.name}{' *' * (subset.distribution == 'out')}"), *(cells[title] for title in titles)
            )
    table.add_section()
    for name, mean in results.means.items():
        cells = score_cells(mean.scores, _mean_scores(baseline, name))
        table.add_row(Text(MEAN_TITLES.get(name, name)), *(cells[title] for title in titles), style="bold")
    return table


def partial_note(results: Results) -> str:
    """Returns a line that says which subsets of the suite are missing or short; empty if none is."""
    if results.complete:
        return ""
    total = len(results.subsets) + len(results.missing)
    note = f"Partial: {len(results.subsets)} of {total} subsets of {results.suite}; means are over these alone."
    if results.missing:
        note += f" Missing: {', '.join(results.missing)}."
    if results.short:
        note += f" Short: {', '.join(f'{name} ({what})' for name, what in results.short.items())}."
    return note


def by_meta_task(results: Results) -> list[tuple[str, list[SubsetResult]]]:
    """Returns the meta-tasks, in the order of MMEB's tables, each with its subsets in the order given."""
    names = [*META_TASK_TITLES, *(subset.meta_task for subset in results.subsets)]
    groups = {name: [subset for subset in results.subsets if subset.meta_task == name] for name in names}
    return [(name, subsets) for name, subsets in groups.items() if subsets]


def score_cells(now: Scores, before: Scores | None) -> dict[str, str]:
    """Returns the cells of a row, by the title of their column, in percent; blank where there is nothing to compare."""
    return {
        "Chance": f"{100 * now.chance:.1f}",
        "hit@1": f"{100 * now.hit_at_1:.1f}",
        "± s.e.": f"{100 * now.standard_error:.1f}",
        "95 % interval": _interval(now),
        "Baseline": f"{100 * before.hit_at_1:.1f}" if before else "",
        "Change": f"{100 * (now.hit_at_1 - before.hit_at_1):+.1f}" if before else "",
        "hit@5": f"{100 * now.metrics['hit@5']:.1f}",
        "hit@10": f"{100 * now.metrics['hit@10']:.1f}",
        "MRR": f"{100 * now.metrics['mrr']:.1f}",
        "nDCG@5": f"{100 * now.metrics['ndcg@5']:.1f}",
    }


def _interval(scores: Scores) -> str:
    low, high = scores.intervals.get("hit@1", (None, None))
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _subset_scores(results: Results | None, name: str) -> Scores | None:
    return next((subset.scores for subset in (results.subsets if results else ()) if subset.name == name), None)


def _mean_scores(results: Results | None, name: str) -> Scores | None:
    return results.means[name].scores if results and name in results.means else None
