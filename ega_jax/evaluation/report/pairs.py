"""What the loss amplified in training: queries with their positive and their hardest negative, as pictures."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from ega_jax.evaluation.report.axes import times
from ega_jax.evaluation.report.gallery import content

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ega_jax.evaluation.report.run_files import RunFiles

MOST_COMPARED = 4
"""Pairs of each run on a page that compares runs."""


def amplified_pairs(run: RunFiles) -> str:
    """The pairs of `amplified.json`: the most amplified, then others at even distances."""
    told = run.amplified
    if told is None or not told["pairs"]:
        return ""
    cards = [_card(pair, told) for pair in told["pairs"]]
    largest = _largest(told)
    shown = f'<p class="lead">{_told(told)}</p><div class="subset pairs">{"".join(cards[:largest])}</div>'
    if rest := cards[largest:]:
        count = f"{len(rest)} of {told['rows'] - largest:,}"
        shown += (
            f'<details class="subset"><summary><b>At even distances among the others</b><span>{count}</span></summary>'
            f'<div class="pairs">{"".join(rest)}</div></details>'
        )
    return shown


def compared_pairs(runs: Sequence[RunFiles]) -> str:
    """The most amplified pairs of each run, one run below the other."""
    parts = []
    for run in runs:
        if run.amplified and run.amplified["pairs"]:
            cards = "".join(_card(pair, run.amplified) for pair in run.amplified["pairs"][:MOST_COMPARED])
            parts.append(f'<h3 class="gallery-group">{escape(run.name)}</h3><p class="lead">{_told(run.amplified)}</p>')
            parts.append(f'<div class="subset pairs">{cards}</div>')
    return "".join(parts)


def _largest(told: dict[str, Any]) -> int:
    """How many of the pairs are the first of all, without a gap."""
    places = [pair["place"] for pair in told["pairs"]]
    return next((count for count, place in enumerate(places) if place != count + 1), len(places))


def _told(told: dict[str, Any]) -> str:
    loss, first, last = told["loss"], told["first_step"], told["last_step"]
    steps = f"step {last:,}" if first == last else f"steps {first:,} to {last:,}"
    batches = f"Rows of training: of the batches of {steps}, the {told['rows']:,} with a negative, embedded with the "
    batches += f"weights after step {last:,}. "
    if not loss["beta"]:
        return batches + "This run amplifies nothing (β = 0): these are its hardest negatives."
    return batches + (
        f"EGA with α = {loss['alpha']}, β = {loss['beta']}, {escape(str(loss['hardness']))} hardness, "
        f"{escape(str(loss['combine']))}: most amplified first."
    )


def _card(pair: dict[str, Any], told: dict[str, Any]) -> str:
    positive, negative = pair["positive_similarity"], pair["negative_similarity"]
    hardness = negative - (1.0 if told["loss"]["hardness"] == "absolute" else positive)
    ahead = negative >= positive
    pictures = pair["positive"]["images"] or pair["negative"]["images"]
    same_text = pair["positive"]["text"] == pair["negative"]["text"]
    tiles = "".join(
        f'<li class="{kind}"><span class="mark">{mark}</span>'
        f'<div class="content">{content(pair[name], not (pictures and same_text))}</div>'
        f'<span class="score">{similarity:.3f}</span></li>'
        for name, kind, mark, similarity in (
            ("positive", "gold", "✓ positive", positive),
            ("negative", "miss", "✗ negative", negative),
        )
    )
    verdict = f"amplified {times(pair['amplification'])}"
    remark = f"hardness {hardness:+.3f}{' · ahead of the positive' if ahead else ''} · {pair['subset']} · "
    remark += f"{pair['place']:,} of {told['rows']:,}"
    return (
        f'<article class="card pair {"wrong" if ahead else "right"}"><div class="query">'
        f'<span class="verdict">{verdict}</span><small>{escape(remark)}</small>{content(pair["query"])}</div>'
        f'<ol class="{"tiles" if pictures else "lines"}">{tiles}</ol></article>'
    )
