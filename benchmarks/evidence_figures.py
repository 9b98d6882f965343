"""Draws the figures of docs/evidence.md from the records of `benchmarks/evidence.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from evidence_page import BASE, EGA, SIDES, Evidence, Rows, interval, map_gains
from frozen.methods import METHODS
from frozen.worlds import WORLDS


def draw(rows: Rows, directory: Path) -> None:
    """The figures: gains by method, and the map of α and β."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "evidence", "svg.fonttype": "none", "font.size": 9})
    evidence = Evidence(rows)
    methods = [method for method in evidence.methods("plain") if method != BASE]
    lowest = -7  # what is further off stands at the edge, in words
    figure, axes = plt.subplots(1, len(WORLDS), figsize=(10, 0.33 * len(methods) + 1.2), sharey=True, layout="tight")
    for axis, world in zip(axes, WORLDS, strict=True):
        for side, (offset, marker, fill) in zip(SIDES, ((-0.12, "o", "black"), (0.12, "s", "white")), strict=True):
            for place, method in enumerate(methods):
                found = evidence.gains(method, worlds=[world], sides=[side])
                assert found is not None
                low, high = interval(found)
                axis.plot([low, high], [place + offset] * 2, color="black", linewidth=1)
                label = f"{SIDES[side]} distribution" if place == 0 else None
                axis.plot(found.mean(), place + offset, marker, color="black", markerfacecolor=fill, label=label)
                if found.mean() < lowest:
                    axis.text(lowest + 0.2, place + offset, f"← {found.mean():.0f}", va="center", fontsize=7)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_xlim(lowest, 4)
        axis.set_title(world)
        axis.set_xlabel("points of hit@1 over InfoNCE")
    axes[0].set_yticks(range(len(methods)), [METHODS[method].title for method in methods])
    axes[0].invert_yaxis()
    axes[-1].legend(loc="best", fontsize=8)
    _save(figure, directory / "evidence-methods.svg")

    maps = {method: found for method in EGA if (found := map_gains(evidence, method))}
    if not maps:
        return
    figure, grid = plt.subplots(len(maps), len(WORLDS), figsize=(10, 3 * len(maps)), layout="tight", squeeze=False)
    limit = 3.0  # points; what is further off has the last colour, and its number
    for row, (method, (pairs, values)) in zip(grid, maps.items(), strict=True):
        alphas, betas = (sorted({pair[place] for pair in pairs}) for place in (0, 1))
        for axis, world, gains in zip(row, WORLDS, values.mean(2), strict=True):
            square = np.array([[gains[pairs.index((a, b))] for a in alphas] for b in betas])
            axis.imshow(square, origin="lower", cmap="RdBu", vmin=-limit, vmax=limit)
            for (y, x), value in np.ndenumerate(square):
                colour = "white" if abs(value) > 0.7 * limit else "black"
                axis.text(x, y, f"{value:+.1f}", ha="center", va="center", fontsize=8, color=colour)
            axis.set_xticks(range(len(alphas)), [f"{a:g}" for a in alphas])
            axis.set_yticks(range(len(betas)), [f"{b:g}" for b in betas])
            axis.set(xlabel="α", ylabel="β", title=f"{METHODS[method].title}, {world}")
    _save(figure, directory / "evidence-map.svg")


def _save(figure: Any, path: Path) -> None:
    # A white ground: the page may be dark.
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
