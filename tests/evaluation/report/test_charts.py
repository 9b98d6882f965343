"""Charts draw what they are given, where they should."""

import re
from xml.etree import ElementTree

import pytest

from ega_jax.evaluation.report import charts
from ega_jax.evaluation.report.charts import Bar, Distribution, Line


def svg(chart):
    return ElementTree.fromstring(chart[chart.index("<svg") :])


def polylines(chart):
    lines = svg(chart).iter("polyline")
    return [[tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in lines]


def tick_values(chart):
    """Text and height of the ticks of the y axis."""
    return {
        text.text: float(text.get("y")) - 3.5 for text in svg(chart).iter("text") if text.get("text-anchor") == "end"
    }


def test_a_line_passes_through_the_heights_of_its_ticks():
    (points,) = polylines(charts.line_chart([Line("", "trained", [0, 1, 2], [0.0, 1.0, 4.0])], alt="a"))
    ticks = tick_values(charts.line_chart([Line("", "trained", [0, 1, 2], [0.0, 1.0, 4.0])], alt="a"))
    assert [y for _, y in points] == pytest.approx([ticks["0"], ticks["1"], ticks["4"]], abs=0.11)
    assert [x for x, _ in points] == pytest.approx(
        [charts.LEFT, (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2, charts.WIDTH - charts.RIGHT]
    )


def test_a_logarithmic_scale_spaces_decades_evenly_and_leaves_out_what_it_cannot_show():
    chart = charts.line_chart(
        [Line("", "trained", [0, 1, 2, 3, 4], [1.0, 100.0, 1000.0, 0.0, -1.0])], alt="a", logarithmic=True
    )
    (points,) = polylines(chart)
    (_, one), (_, hundred), (_, thousand) = points
    assert one - hundred == pytest.approx(2 * (hundred - thousand), abs=0.2)
    ticks = tick_values(chart)
    assert [ticks["1"], ticks["100"], ticks["1000"]] == pytest.approx([one, hundred, thousand], abs=0.11)


def test_lines_break_where_a_value_is_missing():
    chart = charts.line_chart([Line("", "trained", [0, 1, 2, 3, 4], [1.0, 2.0, None, 3.0, 1.0])], alt="a")
    assert [len(points) for points in polylines(chart)] == [2, 2]
    lonely = charts.line_chart([Line("", "trained", [0, 1, 2], [1.0, None, 3.0])], alt="a")
    assert (len(polylines(lonely)), lonely.count("<circle")) == (0, 2)


def test_long_series_are_averaged_to_a_bounded_number_of_points():
    steps = range(100_000)
    chart = charts.line_chart([Line("", "trained", steps, [float(step) for step in steps])], alt="a")
    (points,) = polylines(chart)
    assert 300 < len(points) <= charts.MOST_POINTS
    slopes = [(ay - by) / (bx - ax) for (ax, ay), (bx, by) in zip(points[:-1:40], points[40::40], strict=False)]
    assert slopes == pytest.approx([slopes[0]] * len(slopes), rel=0.02)  # the straight line stays straight


@pytest.mark.parametrize("values", [[], [None, None]])
def test_a_chart_without_values_says_so(values):
    assert "no values" in charts.line_chart([Line("", "trained", range(len(values)), values)], alt="a")


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-12, 1e300])
def test_a_constant_series_can_be_drawn(value):
    chart = charts.line_chart([Line("x", "trained", [5, 6], [value, value])], alt="a")
    assert all(charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM for line in polylines(chart) for _, y in line)


def test_texts_are_escaped():
    line = Line("<script>", "trained", [0, 1], [0.0, 1.0])
    chart = charts.line_chart([line], alt='"><script>', x_label="<i>")
    bar = Bar("<u>", "<s>", 0.5, 0.1, None, 0.1)
    for html in (chart, charts.bars([("<script>", "<script>", [bar])])):
        assert not re.search("<(script|i|u|s)>", html)


def test_histogram_heights_are_shares_on_one_scale():
    panels = [
        ("one", [Distribution("a", "positive", [0.0] * 3 + [1.0])]),
        ("two", [Distribution("b", "negative", [0.5] * 8)]),
    ]
    one, two = charts.histograms(panels, alt="a", x_label="x")
    heights = {}
    for name, chart in (("one", one), ("two", two)):
        (polygon,) = svg(chart).iter("polygon")
        ys = [float(point.split(",")[1]) for point in polygon.get("points").split()]
        heights[name] = sorted({round(max(ys) - y, 1) for y in ys})
    (_, quarter, most), (_, whole) = heights["one"], heights["two"]
    assert (quarter, most) == (pytest.approx(whole / 4, abs=0.2), pytest.approx(0.75 * whole, abs=0.2))
    assert "mean 0.25" in one
    assert charts.histograms([("none", [])], alt="a", x_label="x") == []


def test_bars_are_as_long_as_their_scores():
    html = charts.bars([("group", "mean", [Bar("s", "OOD", 0.75, 0.05, 0.25, 0.1)])])
    assert 'class="after" style="width:75.00%"' in html
    assert 'class="before" style="width:25.00%"' in html
    assert 'class="error" style="left:70.00%;width:10.00%"' in html
    assert 'class="chance" style="left:10.00%"' in html
    assert "75.0<small> ±5.0" in html
    assert 'class="before"' not in charts.bars([("g", "", [Bar("s", "", 0.75, 0.05, None, 0.1)])])


def test_one_logged_step_has_one_tick():
    chart = charts.line_chart([Line("", "trained", [7], [1.0])], alt="a")
    middle = [text.text for text in svg(chart).iter("text") if text.get("text-anchor") == "middle"]
    assert middle == ["7", "step"]
