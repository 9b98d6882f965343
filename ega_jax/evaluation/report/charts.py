"""Charts as inline SVG and HTML: no script, sharp at any zoom, coloured by the page's light or dark palette."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from html import escape

from ega_jax.evaluation.report.axes import axis, labels, log_ticks, number, percent, short_percent, ticks

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 38
MOST_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
      label: for the legend; empty leaves the line out of it.
      colour: name of a colour of the page's palette, e.g. "trained".
      xs, ys: the points; the line is broken where y is None.
      faint: drawn thin and pale, as the raw values behind a smoothed line.
      dashes: SVG's pattern of dashes; empty is a solid line.
    """

    label: str
    colour: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    faint: bool = False
    dashes: str = ""


@dataclasses.dataclass(frozen=True)
class Distribution:
    """One histogram of a panel: its label, colour and values."""

    label: str
    colour: str
    values: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Bar:
    """One row of a bar chart; shares in [0, 1].

    Attributes:
      label: what is scored.
      tag: a small mark after the label, e.g. "OOD"; may be empty.
      value, error: the score and its standard error.
      before: the score before training, if known.
      chance: the score of a random order.
    """

    label: str
    tag: str
    value: float
    error: float
    before: float | None
    chance: float


def line_chart(
    lines: Sequence[Line],
    *,
    alt: str,
    x_label: str = "step",
    form: Callable[[float, int], str] = number,
    least: float | None = None,
    most: float | None = None,
    logarithmic: bool = False,
) -> str:
    """Returns a line chart.

    Args:
      lines: what to draw, later ones on top. Where none has a finite value, a chart that says so is returned.
      alt: what the chart shows, for those who cannot see it.
      x_label: title of the x axis.
      form: how a value of y is written with so many digits.
      least, most: values that the y axis must reach.
      logarithmic: whether y is on a logarithmic scale; values that are not positive are left out.
    """
    lines = [_thinned(line, logarithmic) for line in lines]
    points = [(x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=True) if y is not None]
    if not points:
        return '<p class="empty">no values</p>'
    scale = math.log10 if logarithmic else float
    bounds = [scale(y) for _, y in points] + [scale(bound) for bound in (least, most) if bound is not None]
    y_ticks = log_ticks(min(bounds), max(bounds)) if logarithmic else ticks(min(bounds), max(bounds))
    low, high = min(y_ticks[0], *bounds), max(y_ticks[-1], *bounds)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    x_of = axis(first, last, LEFT, WIDTH - RIGHT)
    y_of = axis(low, high, HEIGHT - BOTTOM, TOP)
    values = [10**tick for tick in y_ticks] if logarithmic else y_ticks
    x_ticks = ticks(first, last, whole=True, inside=True) if last > first else [first]
    body = [
        _y_axis([y_of(tick) for tick in y_ticks], labels(values, form)),
        _x_axis([x_of(tick) for tick in x_ticks], labels(x_ticks), x_label),
    ]
    for line in lines:
        drawn = [(x_of(x), None if y is None else y_of(scale(y))) for x, y in zip(line.xs, line.ys, strict=True)]
        body.append(_polylines(drawn, line))
    return _legend([(line.label, line.colour) for line in lines if line.label]) + _svg(body, alt)


def histograms(panels: Sequence[tuple[str, Sequence[Distribution]]], *, alt: str, x_label: str) -> list[str]:
    """Returns one histogram a panel, all on the same scales, so that panels can be compared.

    Args:
      panels: title of the panel and what to draw in it; heights are shares of each distribution.
      alt: what the charts show.
      x_label: title of the common x axis.
    """
    values = [value for _, shown in panels for one in shown for value in one.values]
    if not values:
        return []
    x_ticks = ticks(min(values), max(values))
    low, high = min(x_ticks[0], *values), max(x_ticks[-1], *values)
    bins = 48
    counted = [[(one, _shares(one.values, low, high, bins)) for one in shown if one.values] for _, shown in panels]
    top = max(share for shown in counted for _, shares in shown for share in shares)
    x_of, y_of = axis(low, high, LEFT, WIDTH - RIGHT), axis(0.0, top * 1.05, HEIGHT - BOTTOM, TOP)
    y_ticks = ticks(0.0, top, inside=True)
    charts = []
    for (title, _), shown in zip(panels, counted, strict=True):
        body = [
            _y_axis([y_of(tick) for tick in y_ticks], labels(y_ticks, short_percent)),
            _x_axis([x_of(tick) for tick in x_ticks], labels(x_ticks), x_label),
        ]
        for order, (one, shares) in enumerate(shown):
            # The first filled, others in outline: they can be told apart in grey.
            kind = "outline" if order else "area"
            edges = [x_of(low + (high - low) * edge / bins) for edge in range(bins + 1)]
            corners = [
                f"{edges[place + side]:.1f},{y_of(share):.1f}" for place, share in enumerate(shares) for side in (0, 1)
            ]
            ground = f"{y_of(0.0):.1f}"
            outline = f"{edges[0]:.1f},{ground} {' '.join(corners)} {edges[-1]:.1f},{ground}"
            mean = x_of(sum(one.values) / len(one.values))
            body.append(
                f'<g style="color:var(--{one.colour})"><polygon class="{kind}" points="{outline}"/>'
                f'<line class="mean" x1="{mean:.1f}" x2="{mean:.1f}" y1="{TOP}" y2="{ground}"/></g>'
            )
        looks = ("filled", *["outline"] * len(shown))
        legend = _legend(
            [
                (f"{one.label} ({look}), mean {sum(one.values) / len(one.values):.2f}", one.colour)
                for (one, _), look in zip(shown, looks, strict=False)
            ]
        )
        charts.append(f"<h3>{escape(title)}</h3>{legend}{_svg(body, f'{title}: {alt}')}")
    return charts


def bars(groups: Sequence[tuple[str, str, Sequence[Bar]]]) -> str:
    """Returns a horizontal bar a row, in groups of a title, a remark and rows."""
    parts = ['<div class="bars" role="table" aria-label="hit@1 of each subset">']
    for title, remark, rows in groups:
        parts.append(f'<div class="bar-group"><b>{escape(title)}</b><span>{escape(remark)}</span></div>')
        parts += [_bar(row) for row in rows]
    scale = "".join(f'<i style="left:{mark}%">{mark}</i>' for mark in (0, 25, 50, 75, 100))
    parts.append(f'<div class="bar bar-scale" aria-hidden="true"><span></span><div class="track">{scale}</div></div>')
    return "".join(parts) + "</div>"


def _bar(row: Bar) -> str:
    tag = f' <em class="tag">{escape(row.tag)}</em>' if row.tag else ""
    told = f"{row.label}: {percent(row.value)}, standard error {percent(row.error)}, chance {percent(row.chance)}"
    pieces = [f'<i class="after" style="width:{100 * row.value:.2f}%"></i>']
    if row.before is not None:
        told += f", before training {percent(row.before)}"
        pieces.append(f'<i class="before" style="width:{100 * row.before:.2f}%"></i>')
    low, high = max(row.value - row.error, 0.0), min(row.value + row.error, 1.0)
    pieces.append(f'<i class="error" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>')
    pieces.append(f'<i class="chance" style="left:{100 * row.chance:.2f}%"></i>')
    figure = f"{100 * row.value:.1f}<small> ±{100 * row.error:.1f}</small>"
    return (
        f'<div class="bar" role="row" title="{escape(told)}"><span class="bar-label">{escape(row.label)}{tag}</span>'
        f'<div class="track">{"".join(pieces)}</div><span class="figure">{figure}</span></div>'
    )


def _thinned(line: Line, positive: bool) -> Line:
    """Averages neighbours until few enough points are left to draw; drops values that the scale cannot show."""
    ys = [None if y is None or (positive and y <= 0) else y for y in line.ys]
    size = math.ceil(len(ys) / MOST_POINTS)
    if size <= 1:
        return dataclasses.replace(line, ys=ys)
    blocks = [slice(start, start + size) for start in range(0, len(ys), size)]
    xs = [sum(line.xs[block]) / len(line.xs[block]) for block in blocks]
    return dataclasses.replace(line, xs=xs, ys=[mean_of_known(ys[block]) for block in blocks])


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None where all are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _shares(values: Sequence[float], low: float, high: float, bins: int) -> list[float]:
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / (high - low) * bins), bins - 1)] += 1
    return [count / len(values) for count in counts]


def _polylines(points: Sequence[tuple[float, float | None]], line: Line) -> str:
    runs: list[list[str]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append(f"{x:.1f},{y:.1f}")
    kind = "line faint" if line.faint else "line"
    dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
    drawn = []
    for run in filter(None, runs):
        if len(run) == 1:
            at_x, at_y = run[0].split(",")
            drawn.append(f'<circle class="dot" cx="{at_x}" cy="{at_y}" r="2.5"/>')
        else:
            drawn.append(f'<polyline class="{kind}"{dashes} points="{" ".join(run)}"/>')
    return f'<g style="color:var(--{line.colour})">{"".join(drawn)}</g>'


def _y_axis(heights: Sequence[float], texts: Sequence[str]) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" text-anchor="end" x="{LEFT - 7}" y="{y + 3.5:.1f}">{escape(text)}</text>'
        for y, text in zip(heights, texts, strict=True)
    )


def _x_axis(places: Sequence[float], texts: Sequence[str], title: str) -> str:
    ground, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
    marks = "".join(
        f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{ground + 15}">{escape(text)}</text>'
        for x, text in zip(places, texts, strict=True)
    )
    return (
        f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{ground}" y2="{ground}"/>{marks}'
        f'<text class="tick" text-anchor="middle" x="{middle}" y="{HEIGHT - 6}">{escape(title)}</text>'
    )


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    chips = "".join(f'<span style="color:var(--{colour})"><b>{escape(label)}</b></span>' for label, colour in entries)
    return f'<div class="legend">{chips}</div>' if chips else ""


def _svg(body: Sequence[str], alt: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">'
        f"<title>{escape(alt)}</title>{''.join(body)}</svg>"
    )
