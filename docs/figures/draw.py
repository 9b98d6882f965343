"""Draws the figures of the README and of docs/loss.md, from the loss itself.

    python docs/figures/draw.py            # writes docs/figures/*.svg, one file for light pages and one for dark ones

Every curve is what `jax.value_and_grad` of `ega_jax.ega_loss` returns for one query, its positive and one negative, or
many where it says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax import ega_loss
from ega_jax.losses import DEFAULTS

HERE = Path(__file__).parent
TEMPERATURE = 0.02
POSITIVE = 0.7  # similarity of the positive; only distances to it matter
_DEFAULT = f"α {DEFAULTS.alpha:g}, β {DEFAULTS.beta:g}"


def main() -> None:
    for theme, colours in THEMES.items():
        for name, figure in (("amplification", amplification), ("combine", combine), ("options", options_one_by_one)):
            (HERE / f"{name}-{theme}.svg").write_text(figure(colours), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- the numbers


class Curves(NamedTuple):
    """What the loss does as the negative moves: arrays parallel to its distance from the positive."""

    value: np.ndarray  # L, nats
    negative: np.ndarray  # τ ∂L/∂s of the negative: P̄ of it
    positive: np.ndarray  # τ ∂L/∂s of the positive: P̄ of it - 1


def measure(distances: np.ndarray, *, positive: float = POSITIVE, **options: object) -> Curves:
    """Value and gradient of `ega_loss`, for a negative whose similarity exceeds the positive's by each distance."""
    similarities = jnp.stack([jnp.full(len(distances), positive), positive + distances], axis=1)
    value, gradient = jax.jit(jax.vmap(_by_similarity(**options)))(similarities)
    gradient = TEMPERATURE * np.asarray(gradient)
    return Curves(np.asarray(value), gradient[:, 1], gradient[:, 0])


def measure_together(distances: np.ndarray, **options: object) -> np.ndarray:
    """τ ∂L/∂s of each of many negatives of one query, one at each distance from the positive."""
    similarities = jnp.concatenate([jnp.array([POSITIVE]), POSITIVE + distances])
    return TEMPERATURE * np.asarray(jax.jit(_by_similarity(**options))(similarities)[1])[1:]


def _by_similarity(**options: object) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Value and gradient as a function of one query's similarities, its positive's first."""

    def loss(similarities: jax.Array) -> jax.Array:
        # With the query (1, 0) and targets (s, 0), the gradient by a target's first coordinate is that by s.
        targets = jnp.stack([similarities, jnp.zeros_like(similarities)], axis=1)
        return ega_loss(jnp.array([[1.0, 0.0]]), targets, temperature=TEMPERATURE, normalize=False, **options)

    return jax.value_and_grad(loss)


# ---------------------------------------------------------------------------------------------------------- the figures


def amplification(colours: Colours) -> str:
    """The figure of the README: the value stays, hard negatives' gradients grow."""
    distances = np.linspace(-0.4, 0.1, 251)
    plain = measure(distances, beta=0.0)
    settings = [
        (colours.second, "α 5, β 4", {"alpha": 5.0, "beta": 4.0}),
        (colours.third, "α 20, β 4", {"alpha": 20.0, "beta": 4.0}),
        (colours.first, f"{_DEFAULT}, the default", {}),
    ]
    ticks = {"x_ticks": (-0.4, -0.3, -0.2, -0.1, 0.0, 0.1), "x_title": "similarity of the negative − of the positive"}
    left = Panel(58, 84, 250, 230, (-0.4, 0.1), (0, 5), colours)
    right = Panel(384, 84, 420, 230, (-0.4, 0.1), (0, 4), colours)
    parts = [
        left.title("The value is InfoNCE's …", "loss, nats"),
        left.axes(y_ticks=(0, 1, 2, 3, 4, 5), **ticks),
        left.line(distances, plain.value, colours.pale, width=9),
        left.line(distances, measure(distances).value, colours.first, width=2.2),
        *left.legend(-0.38, 4.5, [(colours.pale, 9, "InfoNCE"), (colours.first, 2.2, "EGA")]),
        right.title("… the gradient of a hard negative is not", "times what InfoNCE gives the same negative"),
        right.band(0.0, 0.1, "negative ahead"),
        right.axes(y_ticks=(0, 1, 2, 3, 4), y_format="{:.0f}×", **ticks),
        right.line(distances, np.ones_like(distances), colours.pale, width=9),
    ]
    for colour, _, options in settings:
        parts.append(right.line(distances, measure(distances, **options).negative / plain.negative, colour))
    legend = [(colour, 2.6, label) for colour, label, _ in settings]
    parts += right.legend(-0.385, 3.6, [*legend, (colours.pale, 9, "InfoNCE (β 0)")])
    caption = "One query, its positive and one negative; τ 0.02. Gradients by similarity, from jax.grad of ega_loss."
    return document(840, 396, colours, [*parts, text(28, 382, caption, colours.muted, size=12)])


def combine(colours: Colours) -> str:
    """The figure of docs/loss.md: the three ways to make a distribution of the weighted shares."""
    distances = np.linspace(-0.12, 0.08, 201)
    plain = measure(distances, beta=0.0)
    parts = []
    for column, name in enumerate(("normalized", "rebalanced", "unnormalized")):
        found = measure(distances, combine=name)
        panel = Panel(52 + 268 * column, 84, 220, 200, (-0.12, 0.08), (0, 2.5), colours)
        parts += [
            panel.title(name, "τ × gradient by similarity"),
            panel.axes(y_ticks=(0, 1, 2), x_ticks=(-0.1, -0.05, 0.0, 0.05), x_title="negative − positive", x_digits=2),
            panel.line(distances, plain.negative, colours.pale, width=9),
            panel.line(distances, found.negative, colours.second),
            panel.line(distances, -found.positive, colours.first, dashed=True),
        ]
        if column == 0:
            names = ("push off the negative", "pull to the positive", "both, in InfoNCE")
            styles = zip((colours.second, colours.first, colours.pale), (2.6, 2.6, 9), names, strict=True)
            parts += panel.legend(-0.115, 2.25, list(styles))
    caption = (
        f"One query, its positive and one negative; {_DEFAULT}, τ 0.02. Where the lines part, rows do not sum to 1."
    )
    return document(840, 366, colours, [*parts, text(22, 352, caption, colours.muted, size=12)])


def options_one_by_one(colours: Colours) -> str:
    """The figure of docs/loss.md: what each option does to the push off a negative, the others at their defaults."""
    distances = np.linspace(-0.4, 0.1, 251)
    lines = (colours.first, colours.second, colours.third)
    plain = measure(distances, beta=0.0).negative
    amplified = {
        "alpha (β 4)": [(f"α {alpha:g}", {"alpha": alpha, "beta": 4.0}) for alpha in (2.0, 5.0, 20.0)],
        "beta": [(f"β {beta:g}", {"beta": beta}) for beta in (4.0, 2.0, 1.0)],
        "hardness (β 4)": [
            ("relative", {"beta": 4.0}),
            ("absolute, positive at 0.9", {"beta": 4.0, "hardness": "absolute", "positive": 0.9}),
            ("absolute, positive at 0.3", {"beta": 4.0, "hardness": "absolute", "positive": 0.3}),
        ],
    }
    far = {"x_ticks": (-0.4, -0.2, 0.0), "x_title": "negative − positive"}
    parts = []
    for column, (name, settings) in enumerate(amplified.items()):
        panel = Panel(52 + 268 * column, 84, 220, 170, (-0.4, 0.1), (0, 6), colours)
        parts += [panel.title(name, "push, times InfoNCE's"), panel.axes(y_ticks=(0, 2, 4, 6), **far)]
        parts.append(panel.line(distances, np.ones_like(distances), colours.pale, width=9))
        for colour, (_, options) in zip(lines, settings, strict=True):
            parts.append(panel.line(distances, measure(distances, **options).negative / plain, colour))
        legend = [(colour, 2.6, label) for colour, (label, _) in zip(lines, settings, strict=True)]
        parts += panel.legend(-0.39, 5.75, legend)

    near = np.linspace(-0.12, 0.08, 401)
    ticks = {"x_ticks": (-0.1, -0.05, 0.0, 0.05), "x_title": "negative − positive", "x_digits": 2}
    plain, cut = measure(near, beta=0.0).negative, measure(near, false_negative_margin=0.04).negative
    panel = Panel(52, 376, 220, 170, (-0.12, 0.08), (0, 1.1), colours)
    parts += [
        panel.title("false_negative_margin 0.04", "push, τ × gradient by similarity"),
        panel.axes(y_ticks=(0, 0.5, 1), y_format="{:.1f}", **ticks),
        panel.line(near, plain, colours.pale, width=9),
        panel.line(near, cut, colours.second),
        *panel.legend(-0.115, 1.0, [(colours.second, 2.6, "EGA"), (colours.pale, 9, "InfoNCE")]),
    ]
    crowd = np.linspace(-0.12, -0.02, 101)
    panel = Panel(320, 376, 220, 170, (-0.12, -0.02), (0, 0.04), colours)
    parts += [
        panel.title("top_k 40, of 101 negatives", "push off each, τ × gradient by similarity"),
        panel.axes(y_ticks=(0, 0.02, 0.04), y_format="{:.2f}", **{**ticks, "x_ticks": (-0.1, -0.06, -0.02)}),
        panel.line(crowd, measure_together(crowd, beta=0.0), colours.pale, width=9),
        panel.line(crowd, measure_together(crowd), colours.first),
        panel.line(crowd, measure_together(crowd, top_k=40), colours.second),
        *panel.legend(
            -0.117,
            0.0365,
            [(colours.second, 2.6, "EGA, top_k 40"), (colours.first, 2.6, "EGA"), (colours.pale, 9, "InfoNCE")],
        ),
    ]
    panel = Panel(588, 376, 220, 170, (-0.4, 0.1), (0, 0.04), colours)
    parts += [
        panel.title("the margin that this amounts to", "τ log w, as a similarity"),
        panel.axes(y_ticks=(0, 0.02, 0.04), y_format="{:.2f}", **far),
    ]
    settings = (("α 20, β 4", {"alpha": 20.0, "beta": 4.0}), ("α 5, β 4", {"beta": 4.0}), (f"{_DEFAULT}", {}))
    for colour, (_, options) in zip((colours.third, colours.second, colours.first), settings, strict=True):
        parts.append(panel.line(distances, margin(distances, **options), colour))
    legend = zip((colours.third, colours.second, colours.first), (2.6,) * 3, (s[0] for s in settings), strict=True)
    parts += panel.legend(-0.39, 0.038, list(legend))
    caption = (
        f"One query, its positive, and one negative (top_k: 101 at once); τ 0.02; {_DEFAULT} unless it says otherwise."
    )
    return document(840, 640, colours, [*parts, text(22, 626, caption, colours.muted, size=12)])


def margin(distances: np.ndarray, **options: object) -> np.ndarray:
    """How much more similar the negative would have to be for InfoNCE to push it off as hard."""
    push, plain = (measure(distances, **o).negative.astype(np.float64) for o in (options, {"beta": 0.0}))
    return TEMPERATURE * (np.log(push / (1 - push)) - np.log(plain / (1 - plain)))


# --------------------------------------------------------------------------------------------------------------- as SVG


@dataclasses.dataclass(frozen=True)
class Colours:
    """A palette; page, text and lines are those of GitHub's pages."""

    page: str
    ink: str
    muted: str
    grid: str
    pale: str
    first: str
    second: str
    third: str


THEMES = {
    "light": Colours("#ffffff", "#1f2328", "#59636e", "#d8dee4", "#c5d3e0", "#0969da", "#c2410c", "#7c3aed"),
    "dark": Colours("#0d1117", "#e6edf3", "#9198a1", "#2f353d", "#3d4b5c", "#58a6ff", "#f0883e", "#bc8cff"),
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """A rectangle of the page (pixels) that shows a range of data."""

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    colours: Colours

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of data lies on the page."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        return (
            self.left + self.width * (x - x0) / (x1 - x0),
            self.top + self.height * (1 - (y - y0) / (y1 - y0)),
        )

    def title(self, title: str, unit: str) -> str:
        return text(self.left - 30, self.top - 36, title, self.colours.ink, size=16, weight=600) + text(
            self.left - 30, self.top - 16, unit, self.colours.muted, size=12
        )

    def axes(
        self,
        *,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        x_title: str,
        x_digits: int = 1,
        y_format: str = "{:.0f}",
    ) -> str:
        parts = []
        for y in y_ticks:
            _, height = self.at(0, y)
            parts.append(
                f'<line x1="{self.left}" x2="{self.left + self.width}" y1="{height:.1f}" y2="{height:.1f}" '
                f'stroke="{self.colours.grid}"/>'
            )
            parts.append(text(self.left - 8, height + 4, y_format.format(y), self.colours.muted, "end", size=12))
        below = self.top + self.height
        for x in x_ticks:
            label = "0" if x == 0 else f"{x:.{x_digits}f}".replace("-", "−")
            parts.append(text(self.at(x, 0)[0], below + 19, label, self.colours.muted, "middle", size=12))
        parts.append(text(self.left + self.width / 2, below + 38, x_title, self.colours.muted, "middle", size=12))
        return "".join(parts)

    def band(self, x0: float, x1: float, label: str) -> str:
        """Marks a range of x."""
        left, right = self.at(x0, 0)[0], self.at(x1, 0)[0]
        return (
            f'<rect x="{left:.1f}" y="{self.top}" width="{right - left:.1f}" height="{self.height}" '
            f'fill="{self.colours.grid}" opacity="0.45"/>'
        ) + text((left + right) / 2, self.top - 6, label, self.colours.muted, "middle", size=12)

    def line(self, x: np.ndarray, y: np.ndarray, colour: str, *, width: float = 2.6, dashed: bool = False) -> str:
        """A curve, cut off where it leaves the panel."""
        inside = (y >= self.y_range[0] - 1e-6) & (y <= self.y_range[1] + 1e-6)
        points = " ".join(
            "{:.1f},{:.1f}".format(*self.at(a, b)) for a, b, shown in zip(x, y, inside, strict=True) if shown
        )
        dash = ' stroke-dasharray="6 5"' if dashed else ""
        return (
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"{dash} '
            'stroke-linecap="round" stroke-linejoin="round"/>'
        )

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, float, str]]) -> list[str]:
        """Rows of (colour, line width, words), the first at a point of data."""
        left, top = self.at(x, y)
        parts = []
        for row, (colour, width, words) in enumerate(entries):
            height = top + 21 * row
            parts.append(
                f'<line x1="{left + 4:.1f}" x2="{left + 22:.1f}" y1="{height:.1f}" y2="{height:.1f}" stroke="{colour}" '
                f'stroke-width="{width}" stroke-linecap="round"/>'
            )
            parts.append(text(left + 34, height + 4.5, words, self.colours.ink, halo=self.colours.page))
        return parts


def text(
    x: float,
    y: float,
    words: str,
    colour: str,
    anchor: str = "start",
    *,
    size: int = 13,
    weight: int = 400,
    halo: str | None = None,
) -> str:
    """Words at a point of the page; a halo keeps grid lines off them."""
    around = f' stroke="{halo}" stroke-width="5" stroke-linejoin="round" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}"{around}>{words}</text>'
    )


def document(width: int, height: int, colours: Colours, parts: Sequence[str]) -> str:
    font = "-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="{font}">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="{colours.page}"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
