"""The sections of the report that show numbers. Each returns HTML, or nothing where the run lacks what it needs."""

from __future__ import annotations

import dataclasses
from html import escape
from typing import TYPE_CHECKING

from ega_jax.evaluation.report.axes import number, percent, short_percent, times
from ega_jax.evaluation.report.charts import (
    Bar,
    Distribution,
    Line,
    bars,
    histograms,
    line_chart,
)
from ega_jax.evaluation.report.curves import curves, grid
from ega_jax.evaluation.tables import MEAN_TITLES, META_TASK_TITLES, by_meta_task, partial_note, score_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ega_jax.evaluation.report.run_files import RunFiles, Series
    from ega_jax.evaluation.results import Scores

OUT_TAG = ' <em class="tag">OOD</em>'
"""Marks a subset that is out of distribution."""


def description(run: RunFiles) -> str:
    """Returns a line on what was trained."""
    settings = {name: value for name, value in run.config.items() if isinstance(value, dict)}
    model, data, loss = (settings.get(part, {}) for part in ("model", "data", "loss"))
    parts = []
    if model.get("preset"):
        weights = model.get("weights")
        start = f"weights {_last_part(weights)}" if weights else "random weights"
        parts.append(f"{model['preset']} from {start}")
    if loss:
        beta = loss.get("beta")
        parameters = [f"temperature {loss['temperature']}"] if "temperature" in loss else []
        if beta:
            parameters = [f"α = {loss.get('alpha')}", f"β = {beta}", str(loss.get("combine", "")), *parameters]
        parts.append(f"{'EGA' if beta else 'InfoNCE'} loss ({', '.join(filter(None, parameters))})")
    if data.get("directory"):
        parts.append(f"data {_last_part(data['directory'])}")
    if run.planned_steps and data.get("batch_size"):
        epochs = run.config.get("epochs")
        whole = f"{epochs} epoch{'s' * (epochs != 1)}, " if epochs else ""
        parts.append(f"{whole}{run.planned_steps} steps of {data['batch_size']} pairs")
    return " · ".join(escape(part) for part in parts)


def headline(run: RunFiles) -> str:
    """Returns the tiles at the top: overall, in and out of distribution, and the end of training."""
    tiles = []
    if run.results:
        before = run.untrained.means if run.untrained else {}
        for name in ("all", "in", "out"):
            if mean := run.results.means.get(name):
                old = before[name].scores if name in before else None
                count = f"{mean.subsets} subset{'s' * (mean.subsets != 1)}"
                tiles.append(_score_tile(MEAN_TITLES[name], count, mean.scores, old))
        if note := partial_note(run.results):
            tiles.insert(0, f'<aside class="notes wide"><b>{escape(note)}</b></aside>')
    if facts := _training_facts(run):
        rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
        tiles.append(f'<div class="tile-box"><h3>Training</h3><dl>{rows}</dl></div>')
    return f'<div class="headline">{"".join(tiles)}</div>' if tiles else ""


def scores(run: RunFiles) -> str:
    """Returns a bar a subset, grouped by meta-task."""
    if not run.results:
        return ""
    before = {subset.name: subset.scores.hit_at_1 for subset in run.untrained.subsets} if run.untrained else {}
    groups = []
    for meta_task, subsets in by_meta_task(run.results):
        mean = run.results.means[meta_task].scores
        rows = [
            Bar(
                label=subset.name,
                tag="OOD" if subset.distribution == "out" else "",
                value=subset.scores.hit_at_1,
                error=subset.scores.standard_error,
                before=before.get(subset.name),
                chance=subset.scores.chance,
            )
            for subset in subsets
        ]
        groups.append((META_TASK_TITLES.get(meta_task, meta_task), f"mean {percent(mean.hit_at_1)}", rows))
    legend = '<div class="legend"><span class="trained"><b>trained</b></span>'
    legend += '<span class="untrained"><b>before training</b></span>' if before else ""
    legend += '<span class="chance-key"><b>chance</b></span><span class="error-key"><b>± 1 standard error</b></span>'
    legend += '<span class="plain"><em class="tag">OOD</em> out of distribution</span></div>'
    return f'<div class="panel"><h3>hit@1, %</h3>{legend}{bars(groups)}</div>'


def table(run: RunFiles) -> str:
    """Returns all metrics of all subsets and means."""
    if not run.results:
        return ""
    before_subsets = {subset.name: subset.scores for subset in run.untrained.subsets} if run.untrained else {}
    before_means = {name: mean.scores for name, mean in run.untrained.means.items()} if run.untrained else {}
    titles = ["Chance", *(["Baseline"] if run.untrained else []), "hit@1", "± s.e."]
    titles += [*(["Change"] if run.untrained else []), "hit@5", "hit@10", "MRR", "nDCG@5"]
    rows = []
    for meta_task, subsets in by_meta_task(run.results):
        rows.append(f'<tr class="group"><th colspan="{3 + len(titles)}">{_title(meta_task)}</th></tr>')
        for subset in subsets:
            label = escape(subset.name) + (OUT_TAG if subset.distribution == "out" else "")
            cells = score_cells(subset.scores, before_subsets.get(subset.name))
            sizes = [f"{subset.queries:,}", f"{subset.pool_size:,.6g}"]
            rows.append(_row(label, sizes, [(title, cells[title]) for title in titles]))
    rows.append(f'<tr class="group"><th colspan="{3 + len(titles)}">Means</th></tr>')
    for name, mean in run.results.means.items():
        cells = score_cells(mean.scores, before_means.get(name))
        sizes = [f"{mean.subsets} subset{'s' * (mean.subsets != 1)}", ""]
        rows.append(_row(_title(name), sizes, [(title, cells[title]) for title in titles]))
    shown = ["Subset", "Queries", "Pool", *("Untrained" if title == "Baseline" else title for title in titles)]
    head = "".join(f"<th>{title}</th>" for title in shown)
    return (
        f'<div class="panel scroll"><table class="scores"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def similarities(run: RunFiles) -> str:
    """Returns histograms of the positive and the hardest negative similarity, before and after training."""
    panels = []
    for title, results in (("Before training", run.untrained), ("After training", run.results)):
        if results is None or not results.details:
            continue
        positive = [value for details in results.details for value in details.positive_similarity]
        hardest = [value for details in results.details for value in details.hardest_negative_similarity]
        panels.append(
            (
                title,
                [
                    Distribution("hardest negative", "negative", [value for value in hardest if value is not None]),
                    Distribution("right answer", "positive", positive),
                ],
            )
        )
    charts = histograms(
        panels,
        alt="shares of queries by the cosine similarity of the right answer and of the hardest negative",
        x_label="cosine similarity",
    )
    return grid(charts)


def hardness(run: RunFiles) -> str:
    """Returns what the loss saw of hard negatives over training."""
    charts = []
    mean, largest = (run.metrics.get(f"hardness/amplification_{kind}") for kind in ("mean", "max"))
    if mean or largest:
        lines = _dashed(curves([("largest in the batch (dashed)", "negative", largest), ("mean", "accent", mean)]))
        alt = "mean and largest amplification of the hardest negative over training"
        chart = line_chart(lines, alt=alt, form=times, least=1.0, logarithmic=True)
        charts.append(f"<h3>Amplification of the hardest negative</h3>{chart}")
    if lines := _spread(run, [("amplification", "", "accent")]):
        chart = line_chart(lines, alt="percentiles of the amplification over training", form=times, least=1.0)
        charts.append(f"<h3>Its spread: median, 10th (dotted) and 90th percentile (dashed)</h3>{chart}")
    positive = run.metrics.get("hardness/positive_similarity")
    negative = run.metrics.get("hardness/hardest_negative_similarity")
    if positive or negative:
        lines = _dashed(
            curves([("hardest negative (dashed)", "negative", negative), ("positive", "positive", positive)])
        )
        chart = line_chart(lines, alt="mean similarity of positives and hardest negatives over training")
        charts.append(f"<h3>Cosine similarity in the batch</h3>{chart}")
    for metric, title, colour in (
        ("positive_similarity", "the positive's", "positive"),
        ("hardest_negative_similarity", "the hardest negative's", "negative"),
    ):
        if lines := _spread(run, [(metric, "", colour)]):
            chart = line_chart(lines, alt=f"percentiles of {title} similarity over training")
            charts.append(
                f"<h3>Spread of {title} similarity: median, 10th (dotted) and 90th percentile (dashed)</h3>{chart}"
            )
    if violations := run.metrics.get("hardness/violations"):
        lines = curves([("", "negative", violations)])
        alt = "share of training queries whose hardest negative beats the positive"
        chart = line_chart(lines, alt=alt, form=short_percent, least=0.0)
        charts.append(f"<h3>Queries whose hardest negative beats the positive</h3>{chart}")
    if effective := run.metrics.get("hardness/effective_negatives"):
        chart = line_chart(curves([("", "accent", effective)]), alt="effective number of negatives", least=0.0)
        charts.append(f"<h3>Negatives that share the push (effective number)</h3>{chart}")
    return grid(charts)


def _dashed(lines: Sequence[Line]) -> list[Line]:
    """The same, those of negatives dashed: they can be told from the others in grey."""
    return [dataclasses.replace(line, dashes="7 4") if line.colour == "negative" else line for line in lines]


def _spread(run: RunFiles, named: Sequence[tuple[str, str, str]]) -> list[Line]:
    """Smoothed percentiles of metrics: the median solid, the outer two dashed. None of a run that did not log them."""
    lines = []
    for metric, label, colour in named:
        for percentile, dashes in ((10, "2 3"), (90, "7 4"), (50, "")):
            series = run.metrics.get(f"hardness/{metric}_p{percentile}")
            shown = label if percentile == 50 else ""
            smooth = [line for line in curves([(shown, colour, series)]) if not line.faint]
            lines += [dataclasses.replace(line, dashes=dashes) for line in smooth]
    return lines


def training(run: RunFiles) -> str:
    """Returns the curves of training and validation."""
    charts = []
    for key, title, colour, least in (
        ("loss", "Loss (InfoNCE), nats", "trained", None),
        ("lr", "Learning rate", "accent", 0.0),
        ("grad_norm", "Gradient norm", "positive", 0.0),
        ("examples_per_s", "Pairs a second", "untrained", 0.0),
    ):
        if series := run.metrics.get(key):
            smooth = key in ("loss", "grad_norm")
            lines = curves([("", colour, series)]) if smooth else [Line("", colour, series.steps, series.values)]
            charts.append(f"<h3>{title}</h3>{line_chart(lines, alt=f'{title} over training', least=least)}")
    if validation := _validation_lines(run.metrics):
        chart = line_chart(validation, alt="hit@1 of the validation rows over training", form=short_percent, least=0.0)
        charts.insert(1, f"<h3>Validation, hit@1</h3>{chart}")
    return grid(charts)


def _last_part(path: object) -> str:
    """Returns the name of a file or directory without where it lies, which would fill the headline."""
    return str(path).rstrip("/").rsplit("/", 1)[-1]


def _score_tile(title: str, count: str, now: Scores, before: Scores | None) -> str:
    marks = [f'<i class="after" style="width:{100 * now.hit_at_1:.2f}%"></i>']
    facts = [count]
    if before:
        marks.append(f'<i class="before" style="width:{100 * before.hit_at_1:.2f}%"></i>')
        facts.append(f"before training {percent(before.hit_at_1)}")
    marks.append(f'<i class="chance" style="left:{100 * now.chance:.2f}%"></i>')
    facts.append(f"chance {percent(now.chance)}")
    return (
        f'<div class="tile-box score-box"><h3>{title}</h3>'
        f'<div class="big">{100 * now.hit_at_1:.1f}<small>% hit@1 ±{100 * now.standard_error:.1f}</small></div>'
        f'<div class="track">{"".join(marks)}</div><p>{"<br>".join(facts)}</p></div>'
    )


def _training_facts(run: RunFiles) -> list[tuple[str, str]]:
    facts = []
    if run.last_step is not None:
        facts.append(("step", f"{run.last_step:,}"))
    for key, label in (
        ("loss", "last loss"),
        ("hardness/violations", "negatives ahead"),
        ("examples_per_s", "pairs / s"),
    ):
        series = run.metrics.get(key)
        if series and series.last is not None:
            facts.append((label, percent(series.last) if key == "hardness/violations" else number(series.last)))
    return facts


def _title(name: str) -> str:
    return escape(MEAN_TITLES.get(name, name))


def _row(label: str, sizes: Sequence[str], cells: Sequence[tuple[str, str]]) -> str:
    shown = "".join(f"<td>{size}</td>" for size in sizes)
    for title, text in cells:
        kind = {"hit@1": "main", "Change": {"+": "up", "-": "down"}.get(text[:1], "")}.get(title, "")
        shown += f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"
    return f"<tr><th>{label}</th>{shown}</tr>"


def _validation_lines(metrics: dict[str, Series]) -> list[Line]:
    """The mean validation score (`eval/score`) over the pale scores of the single subsets (`eval/<subset>`)."""
    lines = [
        Line("a subset", "untrained", series.steps, series.values, faint=True)
        for name, series in metrics.items()
        if name.startswith("eval/") and name != "eval/score"
    ]
    lines = [dataclasses.replace(line, label=line.label if place == 0 else "") for place, line in enumerate(lines)]
    if mean := metrics.get("eval/score"):
        lines.append(Line("mean of subsets", "trained", mean.steps, mean.values))
    return lines
