"""What axes need: round numbers to mark, how they are written, and where they stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False, inside: bool = False) -> list[float]:
    """Returns about `count` round numbers that span [low, high], or (`inside`) lie within it.

    Args:
      low, high: the interval; where it is (almost) a point, ticks around it are returned.
      count: how many intervals between ticks to aim for.
      whole: whether ticks must be whole numbers.
      inside: leave out ticks beyond the interval.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        spread = max(abs(low) * 0.1, 1.0 if whole else 1e-3)
        low, high = low - spread, high + spread
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = [round(mark * step, 12) for mark in range(first, last + 1)]
    return [mark for mark in marks if low - 1e-9 * step <= mark <= high + 1e-9 * step] if inside else marks


def log_ticks(low: float, high: float) -> list[float]:
    """Returns the logarithms of ticks that span [low, high]: 1, 2 and 5 of each decade; 1 alone if they are many."""
    first, last = math.floor(low + 1e-9), math.ceil(high - 1e-9)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    marks = [decade + math.log10(factor) for decade in range(first, last + 1) for factor in factors]
    start = max((mark for mark in marks if mark <= low + 1e-9), default=marks[0])
    stop = min((mark for mark in marks if mark >= high - 1e-9 and mark > start), default=marks[-1])
    return [mark for mark in marks if start <= mark <= stop]


def axis(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """Returns the map from [low, high] to [start, stop]; a single point to the middle."""
    if not high > low:
        return lambda value: (start + stop) / 2
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def number(value: float, digits: int = 3) -> str:
    """Returns a number in few characters: 12.3k, 0.25, 2e-5; `digits` is how many significant ones to keep."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-2:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if size >= 1e4:
        return f"{value / 1e3:.{digits}g}k"
    return f"{value:.{max(digits, 4)}g}" if size >= 1e3 else f"{value:.{digits}g}"


def percent(share: float) -> str:
    """Returns a share as a percentage of one decimal, as scores are written."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def short_percent(share: float, digits: int = 3) -> str:
    """Returns a share as a percentage in few characters, as axes are labelled."""
    return f"{100 * share:.{digits}g}\N{NO-BREAK SPACE}%"


def times(factor: float, digits: int = 3) -> str:
    """Returns a factor as it is spoken: 1.5×."""
    return f"{number(factor, digits)}×"


def labels(values: Sequence[float], form: Callable[[float, int], str] = number) -> list[str]:
    """Returns how the ticks of one axis are written: with as few digits as tell them apart."""
    texts: list[str] = []
    for digits in range(3, 13):
        texts = [form(value, digits) for value in values]
        if len(set(texts)) == len(texts):
            break
    return texts
