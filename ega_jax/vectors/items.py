"""What is to be embedded: the rows of a JSON-lines or parquet file, or the pictures of a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ega_jax.data.bad_records import BadRecords
from ega_jax.data.image_files import ImageFiles
from ega_jax.data.images import ImageError, image_size, open_image
from ega_jax.data.mmeb import OnBadRecord
from ega_jax.data.raw_rows import Column, raw_rows
from ega_jax.data.records import BadRecordError, Side, side_of
from ega_jax.errors import BadInputError

COLUMNS = (
    Column("id", "string", required=False),
    Column("text", "string", required=False),
    Column("image", "string", required=False),
    Column("images", "list", required=False),
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif")
"""Of the files of a folder that are taken as pictures."""


class Item(NamedTuple):
    """One row of what is embedded.

    Attributes:
      id: the caller's name for it.
      text: as given.
      images: paths as given.
      side: what the model reads.
    """

    id: str
    text: str
    images: tuple[str, ...]
    side: Side


@dataclasses.dataclass(frozen=True)
class Items:
    """Everything of a source that can be embedded, in its order.

    Attributes:
      items: the good ones.
      skipped: the others.
    """

    items: tuple[Item, ...]
    skipped: BadRecords


def read_items(
    source: Path, *, instruction: str = "", on_bad_record: OnBadRecord = "error", decode: bool = False
) -> Items:
    """Reads a source.

    Args:
      source: a `.jsonl` or `.parquet` file with columns "text", "image" or "images" (paths relative to the file's
        directory), and optionally "id" (by default the row's number); or a folder, of which every picture is an item,
        named by its path in there.
      instruction: stands before every text, as in the training rows.
      on_bad_record: a row that cannot be used raises, or is counted and left out.
      decode: decode each picture, not only its header.

    Raises:
      BadInputError: the source is neither, holds nothing, or has an id twice; or a row cannot be used.
    """
    images = ImageFiles(source if source.is_dir() else source.parent)
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
        names = [path.relative_to(source).as_posix() for path in files]
        rows: Any = ((row, {"id": name, "image": name, "text": "", "images": ""}) for row, name in enumerate(names))
    elif source.suffix in (".jsonl", ".parquet") and source.is_file():
        rows = raw_rows(source, COLUMNS)
    else:
        raise BadInputError(f"{source}: give a .jsonl or .parquet file, or a folder of pictures")

    look: Callable[[Any], object] = open_image if decode else image_size
    skipped = BadRecords()
    items: list[Item] = []
    for number, values in rows:
        skipped.rows += 1
        try:
            if isinstance(values, BadRecordError):
                raise values
            items.append(_item(source, number, values, instruction, images, look))
        except BadRecordError as error:
            if on_bad_record == "error":
                raise
            skipped.add(error)
    if not items:
        raise BadInputError(f"{source}: holds nothing that can be embedded" + (f" ({skipped})" if skipped.rows else ""))
    _require_distinct(source, items)
    return Items(tuple(items), skipped)


def _item(
    source: Path,
    number: int,
    values: dict[str, Any],
    instruction: str,
    images: ImageFiles,
    look: Callable[[Any], object],
) -> Item:
    if values["image"] and values["images"]:
        raise BadRecordError(source, number, "images", "there is an image beside it: give one of the two")
    field = "image" if values["image"] else "images"
    paths = tuple([values["image"]] if values["image"] else values["images"])
    if not paths and not values["text"]:
        raise BadRecordError(source, number, "text", "neither text nor image")
    sources = []
    for path in paths:
        try:
            sources.append(images.find(path))
            look(sources[-1])
        except ImageError as error:
            raise BadRecordError(source, number, field, str(error)) from None
    text = f"{instruction} {values['text']}".strip() if instruction else values["text"]
    return Item(values["id"] or str(number), values["text"], paths, side_of(text, sources))


def _require_distinct(source: Path, items: list[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise BadInputError(f"{source}: two rows have the id {item.id!r}")
        seen.add(item.id)
