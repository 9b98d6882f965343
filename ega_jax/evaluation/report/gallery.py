"""Queries and what they retrieved, with thumbnails inside the page."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ega_jax.data.images import ImageError, open_image
from ega_jax.data.prepared.records import named_image
from ega_jax.data.records import IMAGE_TOKEN
from ega_jax.errors import BadInputError
from ega_jax.evaluation.details import MOST_TEXT
from ega_jax.evaluation.report.axes import percent
from ega_jax.evaluation.tables import META_TASK_TITLES, by_meta_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ega_jax.evaluation.details import Example, SubsetDetails
    from ega_jax.evaluation.results import Results, SubsetResult

THUMBNAIL_SIDE = 160
"""Longest side of a thumbnail in pixels; on the page it is half as large, for sharp screens."""

MOST_EXAMPLES = 160
"""Queries in the whole gallery. With 6 thumbnails of about 5 KB each, the page stays within some 5 MB."""


def gallery(results: Results, untrained: Results | None) -> str:
    """Returns the gallery: a foldable part a subset, the first of each meta-task unfolded; right answers first.

    Args:
      results: scores and details of the trained model.
      untrained: those before training, for the rank that the gold candidate had then.
    """
    per_subset = max(MOST_EXAMPLES // max(len(results.details), 1), 2)
    details_of = {details.name: details for details in results.details}
    before = {details.name: details.ranks for details in untrained.details} if untrained else {}
    parts = []
    for meta_task, subsets in by_meta_task(results):
        folded = [
            _subset(subset, details_of[subset.name], before.get(subset.name, []), per_subset)
            for subset in subsets
            if subset.name in details_of and details_of[subset.name].examples
        ]
        if folded:
            title = escape(META_TASK_TITLES.get(meta_task, meta_task))
            first = folded[0].replace("<details", "<details open", 1)
            parts += [f'<h3 class="gallery-group">{title}</h3>', first, *folded[1:]]
    return "".join(parts)


def _subset(subset: SubsetResult, details: SubsetDetails, ranks_before: Sequence[int], count: int) -> str:
    cards = "".join(_card(example, details, ranks_before) for example in _balanced(details, count))
    tag = ' <em class="tag">OOD</em>' if subset.distribution == "out" else ""
    score = f"{percent(subset.scores.hit_at_1)} right of {subset.queries:,}"
    return (
        f'<details class="subset"><summary><b>{escape(subset.name)}</b>{tag}<span>{score}</span></summary>'
        f"{cards}</details>"
    )


def _balanced(details: SubsetDetails, count: int) -> list[Example]:
    """At most `count` examples, as many right ones as wrong ones where there are both."""
    right = [example for example in details.examples if details.ranks[example.query_index] == 1]
    wrong = [example for example in details.examples if details.ranks[example.query_index] != 1]
    share = max(count // 2, count - len(wrong))
    return right[:share] + wrong[: count - min(len(right), share)]


def _card(example: Example, details: SubsetDetails, ranks_before: Sequence[int]) -> str:
    rank = details.ranks[example.query_index]
    verdict = "right" if rank == 1 else "wrong"
    remark = "Right" if rank == 1 else f"Wrong: right answer {ordinal(rank)}"
    if example.query_index < len(ranks_before):
        remark += f" ({ordinal(ranks_before[example.query_index])} before training)"
    candidates = [(place + 1, item, item["score"], item["is_gold"]) for place, item in enumerate(example.retrieved)]
    if not any(item["is_gold"] for item in example.retrieved):
        candidates.append((rank, example.gold, example.gold_score, True))
    pictures = any(item["images"] for _, item, _, _ in candidates)
    # Image targets mostly carry one and the same instruction, which tells nothing.
    texts = len({item["text"] for _, item, _, _ in candidates}) > 1 or not pictures
    shown = "".join(_candidate(*candidate, with_text=texts) for candidate in candidates)
    return (
        f'<article class="card {verdict}"><div class="query"><span class="verdict">{remark}</span>'
        f'{content(example.query)}</div><ol class="{"tiles" if pictures else "lines"}">{shown}</ol></article>'
    )


def _candidate(rank: int, item: dict[str, Any], score: float, is_gold: bool, *, with_text: bool) -> str:
    kind = "gold" if is_gold else "miss" if rank == 1 else ""
    # Not by colour alone.
    mark = {"gold": "✓ right", "miss": "✗ wrong"}.get(kind, "")
    return (
        f'<li class="{kind}"><span class="rank">{rank:,}</span><span class="mark">{mark}</span>'
        f'<div class="content">{content(item, with_text)}</div><span class="score">{score:.3f}</span></li>'
    )


def content(item: dict[str, Any], with_text: bool = True) -> str:
    """An item as HTML: its first two pictures, small, and its text."""
    pictures = "".join(_picture(path) for path in item["images"][:2])
    more = f'<span class="more">+{len(item["images"]) - 2} images</span>' if len(item["images"]) > 2 else ""
    text = " ".join(item["text"].replace(IMAGE_TOKEN, " ").split())
    shown = text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"
    caption = f"<p>{escape(shown)}</p>" if shown and with_text else ""
    return f"{pictures}{more}{caption}"


def _picture(path: str | None) -> str:
    if path is None:
        return '<div class="no-picture">picture was in memory only</div>'
    data = thumbnail(path)
    if data is None:
        return f'<div class="no-picture" title="{escape(Path(path).name)}">picture not found</div>'
    return f'<img src="{data}" alt="{escape(Path(path).name)}" loading="lazy">'


def thumbnail(path: str) -> str | None:
    """Returns a thumbnail of an image by its name as a data URI; None where it is missing or cannot be decoded."""
    try:
        picture = open_image(named_image(path))
    except (ImageError, BadInputError):
        return None
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    if picture.mode not in ("L", "RGB"):
        opaque = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    # PNG is smaller for drawings, JPEG for photographs.
    encodings = [_encoded(picture, "png", optimize=True), _encoded(picture, "jpeg", quality=80)]
    return min(encodings, key=len)


def _encoded(picture: Image.Image, form: str, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def ordinal(rank: int) -> str:
    """1st, 2nd, and so on."""
    ending = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank:,}{ending}"
