"""Curves over training, smoothed for the eye, and how charts stand on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ega_jax.evaluation.report.charts import Line, mean_of_known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ega_jax.evaluation.report.run_files import Series


def grid(charts: Sequence[str]) -> str:
    """Charts side by side where there is room."""
    panels = "".join(f'<div class="panel">{chart}</div>' for chart in charts)
    return f'<div class="grid-of-panels">{panels}</div>' if panels else ""


def curves(named: Sequence[tuple[str, str, Series | None]]) -> list[Line]:
    """Each series twice: pale as it was logged, and a moving average over a 25th of its points."""
    raw, smooth = [], []
    for label, colour, series in named:
        if series is None:
            continue
        reach = len(series.values) // 50
        raw.append(Line("" if reach else label, colour, series.steps, series.values, faint=reach > 0))
        if reach:
            smooth.append(Line(label, colour, series.steps, _moving_average(series.values, reach)))
    return raw + smooth


def _moving_average(values: Sequence[float | None], reach: int) -> list[float | None]:
    averages = []
    for place in range(len(values)):
        # Even-handed at the start, where curves are steep: a window cut on one side alone would bend them.
        back = min(reach, place)
        ahead = min(back, len(values) - 1 - place)
        averages.append(mean_of_known(values[place - back : place + ahead + 1]))
    return averages
