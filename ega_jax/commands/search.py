"""`ega-jax search`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from ega_jax.commands.common import DONE, require_positive, say
from ega_jax.errors import BadInputError
from ega_jax.files import write_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Find what is nearest to a text, a picture or both, among the vectors that `ega-jax embed` wrote.

    ega-jax search vectors "a red bus in the rain"

    ega-jax search vectors --image bus.jpg --top 20 --output found.html
    """

    vectors: Annotated[Path, tyro.conf.Positional]
    """The directory that `ega-jax embed` wrote."""
    text: Annotated[str, tyro.conf.Positional] = ""
    """What is looked for."""
    image: Path | None = None
    """A picture that is looked for, with the text or alone."""
    instruction: str = ""
    """Stands before the text, as in the training rows: mostly another than the corpus had."""
    top: int = 10
    """How many."""
    model: Path | None = None
    """Where the model lies now; by default where it lay when the vectors were made."""
    output: Path | None = None
    """A page with the pictures."""


def run(arguments: Sequence[str]) -> int:
    """Embeds a query and shows its neighbours."""
    from ega_jax.embedder import Embedder
    from ega_jax.models.fingerprint import weights_fingerprint
    from ega_jax.vectors.directory import VectorDirectory
    from ega_jax.vectors.search import Search as Index

    chosen = tyro.cli(Search, args=arguments, prog="ega-jax search")
    if not chosen.text and chosen.image is None:
        raise BadInputError("say what to look for: a text, --image or both")
    require_positive(chosen, "top")
    directory = VectorDirectory.open(chosen.vectors)
    index = Index(directory)
    made = directory.description
    model = chosen.model or Path(made.model)
    embedder = Embedder.from_pretrained(model)
    if weights_fingerprint(embedder.parameters) != made.weights:
        raise BadInputError(f"{chosen.vectors} was made by other weights than {model} holds now: embed again")
    query: dict[str, Any] = {"text": f"{chosen.instruction} {chosen.text}".strip()}
    if chosen.image is not None:
        query["image"] = chosen.image
    vector = embedder.encode([query], batch_size=1, dimensions=made.width if made.width < embedder.width else None)
    similarities, places = index.nearest(vector, chosen.top)
    items = list(directory.items())
    found = [(float(s), items[place]) for s, place in zip(similarities[0], places[0], strict=True)]
    table = Table("rank", "similarity", "id", "text", "images")
    for rank, (similarity, item) in enumerate(found, start=1):
        table.add_row(str(rank), f"{similarity:.4f}", item["id"], item["text"], " ".join(item["images"]))
    Console().print(table)
    if chosen.output is not None:
        write_whole(chosen.output, _page(chosen, Path(made.source), found))
        say(f"wrote {chosen.output}")
    return DONE


def _page(chosen: Search, source: Path, found: Sequence[tuple[float, dict[str, Any]]]) -> str:
    """The query and what was found, as cards."""
    from ega_jax.data.image_files import ImageFiles
    from ega_jax.data.records import Side, side_of
    from ega_jax.inspection.cards import page, section, side_card

    files = ImageFiles(source if source.is_dir() else source.parent)
    query = side_of(chosen.text, [chosen.image] if chosen.image else [])
    cards = [
        side_card(
            "positive",
            f"{rank}. {item['id']} · {similarity:.4f}",
            Side(item["text"], tuple(files.source(path) for path in item["images"])),
        )
        for rank, (similarity, item) in enumerate(found, start=1)
    ]
    parts = [
        section("Query", f'<div class="record">{side_card("query", "query", query)}</div>'),
        section("Nearest", f'<div class="record">{"".join(cards)}</div>'),
    ]
    return page(f"search in {chosen.vectors.name}", parts)
