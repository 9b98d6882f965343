"""Ticks are round, few and told apart."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ega_jax.evaluation.report import axes


@given(low=st.floats(-1e9, 1e9), width=st.floats(1e-6, 1e9))
def test_ticks_span_the_interval_and_are_few(low, width):
    high = low + width
    marks = axes.ticks(low, high)
    assert marks[0] <= low + 1e-6 * width
    assert marks[-1] >= high - 1e-6 * width
    assert 2 <= len(marks) <= 8
    texts = axes.labels(marks)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.0, "1"),
        (0.25, "0.25"),
        (2e-5, "2e-5"),
        (1.5e-4, "1.5e-4"),
        (12345, "12.3k"),
        (2e6, "2e6"),
        (-3, "-3"),
    ],
)
def test_numbers_are_short(value, text):
    assert axes.number(value) == text


@given(low=st.floats(-12, 12), width=st.floats(1e-6, 12))
def test_logarithmic_ticks_span_the_interval_and_are_powers_times_1_2_or_5(low, width):
    marks = axes.log_ticks(low, low + width)
    assert marks[0] <= low + 1e-6
    assert marks[-1] >= low + width - 1e-6
    for mark in marks:
        mantissa = 10 ** (mark - math.floor(mark + 1e-9))
        assert min(abs(mantissa - factor) for factor in (1, 2, 5)) < 1e-6


def test_ticks_inside_and_whole():
    assert axes.ticks(1, 400, whole=True, inside=True) == [100, 200, 300, 400]
    assert axes.ticks(0, 3, whole=True) == [0, 1, 2, 3]
    assert axes.ticks(0.13, 0.87) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_labels_have_as_many_digits_as_tell_them_apart():
    assert axes.labels([0.8012, 0.8014, 0.8016]) == ["0.8012", "0.8014", "0.8016"]
    assert axes.labels([0.8, 0.9, 1.0], axes.short_percent) == [
        "80\N{NO-BREAK SPACE}%",
        "90\N{NO-BREAK SPACE}%",
        "100\N{NO-BREAK SPACE}%",
    ]
    assert axes.labels([1000.0, 1000.1]) == ["1000", "1000.1"]
