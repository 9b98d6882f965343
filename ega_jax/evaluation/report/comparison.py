"""Several runs on one page: what differs in their settings, and in what came of it."""

from __future__ import annotations

import dataclasses
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ega_jax.errors import BadInputError
from ega_jax.evaluation.report.axes import number, short_percent, times
from ega_jax.evaluation.report.charts import Distribution, Line, histograms, line_chart
from ega_jax.evaluation.report.curves import curves, grid
from ega_jax.evaluation.report.failures import failures
from ega_jax.evaluation.report.page import environments, flattened, html_page, section
from ega_jax.evaluation.report.pairs import compared_pairs
from ega_jax.evaluation.report.run_files import read_run
from ega_jax.evaluation.tables import MEAN_TITLES, META_TASK_TITLES
from ega_jax.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ega_jax.evaluation.report.run_files import RunFiles
    from ega_jax.evaluation.results import Results, Scores

# Dashes besides colours: lines can be told apart in grey too.
_LOOKS = (("trained", ""), ("negative", "7 4"), ("positive", "2 3"), ("accent", "10 3 2 3"))

MOST_RUNS = len(_LOOKS)


def write_comparison(run_dirs: Sequence[Path], path: Path) -> Path:
    """Writes a page that shows runs side by side; the first is what the others are compared with.

    Args:
      run_dirs: two to four run directories.
      path: of the page.

    Raises:
      BadInputError: there are fewer or more, a directory is no run, or two have one name.
    """
    if not 2 <= len(run_dirs) <= MOST_RUNS:
        raise BadInputError(f"{len(run_dirs)} runs: a page compares from 2 to {MOST_RUNS}")
    runs = [read_run(Path(run_dir)) for run_dir in run_dirs]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):  # both called "run", say
        runs = [dataclasses.replace(run, name=str(run_dir)) for run, run_dir in zip(runs, run_dirs, strict=True)]
    write_whole(path, _page(runs))
    return path


def _page(runs: Sequence[RunFiles]) -> str:
    notes = "".join(f"<li>{escape(run.name)}: {escape(note)}</li>" for run in runs for note in run.notes)
    banner = f'<aside class="notes"><b>This page is partial.</b><ul>{notes}</ul></aside>' if notes else ""
    keys = "".join(
        f'<span style="color:var(--{colour})"><b>{escape(run.name)}</b></span>'
        for run, (colour, _) in zip(runs, _LOOKS, strict=False)
    )
    parts = [
        section("Scores", _scores(runs), _SCORES_LEAD),
        section("Settings that differ", _settings(runs)),
        section("Queries that one answers and the other does not", _answers(runs), _ANSWERS_LEAD),
        section("Training", _training(runs)),
        section("Similarities of the test queries", _similarities(runs)),
        section("Where they fail, side by side", failures(runs), _FAILURES_LEAD),
        section("What each loss amplified", compared_pairs(runs), _PAIRS_LEAD),
        section("Environment", environments(runs)),
    ]
    return html_page(
        " · ".join(run.name for run in runs), f'<span class="legend">{keys}</span>', banner + "".join(parts)
    )


def _scores(runs: Sequence[RunFiles]) -> str:
    """hit@1 of every mean and subset, a column a run, with the difference to the first."""
    found = [run.results for run in runs]
    first = found[0]
    if first is None or sum(results is not None for results in found) < 2:
        return ""
    head = "".join(
        f"<th>{escape(run.name)}</th>" + ("<th>Change</th>" if place else "") for place, run in enumerate(runs)
    )
    rows = [f'<tr class="group"><th colspan="{2 * len(runs)}">Means</th></tr>']
    for name in first.means:
        values = [results.means[name].scores if results and name in results.means else None for results in found]
        rows.append(_row(escape(MEAN_TITLES.get(name, name)), values))
    for meta_task in dict.fromkeys(subset.meta_task for subset in first.subsets):
        title = escape(META_TASK_TITLES.get(meta_task, meta_task))
        rows.append(f'<tr class="group"><th colspan="{2 * len(runs)}">{title}</th></tr>')
        for subset in first.subsets:
            if subset.meta_task == meta_task:
                tag = ' <em class="tag">OOD</em>' if subset.distribution == "out" else ""
                rows.append(_row(escape(subset.name) + tag, [_of_subset(results, subset.name) for results in found]))
    return (
        f'<div class="panel scroll"><table class="scores"><thead><tr><th>hit@1, %</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _of_subset(results: Results | None, name: str) -> Scores | None:
    subsets = results.subsets if results else ()
    return next((subset.scores for subset in subsets if subset.name == name), None)


def _row(label: str, values: Sequence[Scores | None]) -> str:
    cells, first = "", values[0]
    for place, scores in enumerate(values):
        cells += "<td>–</td>" if scores is None else _score(scores)
        if place and (scores is None or first is None):
            cells += "<td>–</td>"
        elif place and scores is not None and first is not None:
            change = 100 * (scores.hit_at_1 - first.hit_at_1)
            kind = "up" if change > 0.05 else "down" if change < -0.05 else ""
            cells += f'<td class="{kind}">{change:+.1f}</td>'
    return f"<tr><th>{label}</th>{cells}</tr>"


def _score(scores: Scores) -> str:
    return f'<td class="main">{100 * scores.hit_at_1:.1f}<small> ±{100 * scores.standard_error:.1f}</small></td>'


def _settings(runs: Sequence[RunFiles]) -> str:
    settings = [dict(flattened(run.config)) for run in runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    rows = [
        f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{escape(one.get(name, '–'))}</td>" for one in settings) + "</tr>"
        for name in names
        if len({one.get(name) for one in settings}) > 1
    ]
    if not rows:
        return "<p>None: the same experiment.</p>"
    head = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    return (
        f'<div class="panel scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _answers(runs: Sequence[RunFiles]) -> str:
    """Of each subset, how many queries only the first run answers, and only the other."""
    rows = []
    for other in runs[1:]:
        for name, first_only, other_only in _changed(runs[0].results, other.results):
            rows.append(
                f"<tr><th>{escape(name)}</th><td>{escape(other.name)}</td><td>{other_only:,}</td>"
                f"<td>{first_only:,}</td></tr>"
            )
    if not rows:
        return ""
    return (
        '<div class="panel scroll"><table><thead><tr><th>Subset</th><th>Run</th><th>it alone is right</th>'
        f"<th>{escape(runs[0].name)} alone is right</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _changed(first: Results | None, other: Results | None) -> list[tuple[str, int, int]]:
    if first is None or other is None:
        return []
    theirs = {details.name: details.ranks for details in other.details}
    found = []
    for details in first.details:
        ranks = theirs.get(details.name)
        if ranks is not None and len(ranks) == len(details.ranks):
            pairs = [(mine == 1, its == 1) for mine, its in zip(details.ranks, ranks, strict=True)]
            found.append((details.name, sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)))
    return found


_CURVES: tuple[tuple[str, str, Callable[[float, int], str], float | None], ...] = (
    ("eval/score", "Validation, mean hit@1", short_percent, 0.0),
    ("loss", "Loss (InfoNCE), nats", number, None),
    ("hardness/amplification_mean", "Amplification of the hardest negative, mean", times, 1.0),
    ("hardness/amplification_p90", "Amplification of the hardest negative, 90th percentile", times, 1.0),
    ("hardness/violations", "Queries whose hardest negative beats the positive", short_percent, 0.0),
    ("hardness/positive_similarity", "Similarity of positives in the batch", number, None),
    ("hardness/hardest_negative_similarity", "Similarity of the hardest negatives in the batch", number, None),
    ("grad_norm", "Gradient norm", number, 0.0),
    ("examples_per_s", "Pairs a second", number, 0.0),
)


def _training(runs: Sequence[RunFiles]) -> str:
    charts = []
    for key, title, form, least in _CURVES:
        lines: list[Line] = []
        for run, (colour, dashes) in zip(runs, _LOOKS, strict=False):
            if series := run.metrics.get(key):
                smooth = [line for line in curves([(run.name, colour, series)]) if not line.faint]
                lines += [dataclasses.replace(line, dashes=dashes) for line in smooth]
        if lines:
            chart = line_chart(lines, alt=f"{title} over training", form=form, least=least)
            charts.append(f"<h3>{title}</h3>{chart}")
    return grid(charts)


def _similarities(runs: Sequence[RunFiles]) -> str:
    panels = []
    for run in runs:
        details = run.results.details if run.results else ()
        hardest = [value for one in details for value in one.hardest_negative_similarity if value is not None]
        positive = [value for one in details for value in one.positive_similarity]
        if positive:
            shown = [
                Distribution("hardest negative", "negative", hardest),
                Distribution("right answer", "positive", positive),
            ]
            panels.append((run.name, shown))
    return grid(histograms(panels, alt="shares of queries by cosine similarity", x_label="cosine similarity"))


_SCORES_LEAD = "± is one standard error of a run's own score; runs share their queries, so a change is surer than that."
_FAILURES_LEAD = (
    "Queries that some run got wrong, with the first choice of each; those on which the runs disagree come first. They "
    "were drawn at even distances among the right and the wrong answers of each run."
)
_PAIRS_LEAD = "The most amplified pairs of each run's last batches: query, positive and hardest negative."
_ANSWERS_LEAD = "The same queries, one by one: what a difference of scores is made of."
