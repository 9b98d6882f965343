"""What pages about records are made of: cards with pictures and text, sections, the page around them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import resources

from ega_jax import __version__
from ega_jax.data.records import Side
from ega_jax.evaluation.report.gallery import thumbnail

_STYLE = """
table.plain { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
table.plain td, table.plain th { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--rule); }
table.plain th:first-child, table.plain td.text { text-align: left; overflow-wrap: anywhere; }
.record { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 14px; margin: 12px 0; }
.side { background: var(--panel); border: 1px solid var(--rule); border-radius: 10px; padding: 10px 12px; }
.side { border-top: 3px solid var(--muted); }
.side.positive { border-top-color: var(--right); } .side.negative { border-top-color: var(--wrong); }
.side img { max-width: 100%; display: block; margin: 6px 0; }
.side pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: 4px 0 0; }
.side small { display: block; }
"""


def section(title: str, body: str) -> str:
    """A part with a heading; nothing where it has no body."""
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def page(title: str, parts: Iterable[str]) -> str:
    """One file that needs no network and no script."""
    style = (resources.files("ega_jax.evaluation.report") / "style.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · ega_jax</title><style>{style}{_STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1></header>{''.join(parts)}"
        f"<footer><p>ega_jax {escape(__version__)}</p></footer></main></body></html>\n"
    )


def side_card(kind: str, label: str, side: Side) -> str:
    """One side as a card: its pictures, then its text.

    Args:
      kind: "query", "positive" or "negative": the colour of its edge.
      label: what it is called.
      side: what is shown.
    """
    pictures = ""
    for image in side.images:
        data = thumbnail(str(image))
        name = escape(str(image).rpartition("/images/")[2] or str(image))
        pictures += f'<img src="{data}" alt="{name}">' if data else f"<p>cannot be decoded: {name}</p>"
    # A newline at the end counts, so it is shown.
    text = escape(side.text).replace("\n", "↵\n")
    return f'<div class="side {kind}"><small>{label}</small>{pictures}<pre>{text}</pre></div>'
