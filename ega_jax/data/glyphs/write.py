"""Puts subsets on disk in MMEB's layout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ega_jax.data.glyphs.catalog import Catalog
from ega_jax.data.glyphs.rows import EvalRow, Item, Pair, Subset

_NONE = Item("", "")


def write(directory: Path, catalog: Catalog, subsets: list[Subset], sheets: dict[str, list[str]], size: int) -> None:
    """Writes the rows, the pictures that rows name, and `subsets.json`, into an empty directory."""
    used: set[str] = set()
    for subset in subsets:
        home = directory / subset.name
        home.mkdir()
        if subset.train:
            _table(home, "original", _train_columns(subset.train))
            used.update(
                item.path for pair in subset.train for item in (pair.query, pair.gold.item, pair.negative or _NONE)
            )
        for split, rows in (("validation", subset.validation), ("test", subset.test)):
            if rows:
                _table(home, split, _eval_columns(rows))
                used.update(item.path for row in rows for item in (row.query, *row.candidates))
    used.discard("")
    for parent in {(directory / path).parent for path in used}:
        parent.mkdir(parents=True, exist_ok=True)
    for path in used:
        picture = (
            _sheet([catalog.pixels[cell] for cell in sheets[path]], size)
            if path in sheets
            else _picture(catalog.pixels[path], size)
        )
        picture.save(directory / path, compress_level=1)
    about = {
        s.name: {"meta_task": s.meta_task, "distribution": s.distribution, "description": s.description}
        for s in subsets
    }
    (directory / "subsets.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _table(home: Path, split: str, columns: dict[str, pa.Array]) -> None:
    pq.write_table(pa.table(columns), home / f"{split}-00000-of-00001.parquet")


def _train_columns(pairs: Iterable[Pair]) -> dict[str, pa.Array]:
    rows = [(*pair.query, *pair.gold.item, *(pair.negative or _NONE)) for pair in pairs]
    names = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")
    return {name: pa.array(column, pa.string()) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _eval_columns(rows: list[EvalRow]) -> dict[str, pa.Array]:
    lists = pa.list_(pa.string())
    return {
        "qry_text": pa.array([row.query.text for row in rows], pa.string()),
        "qry_img_path": pa.array([row.query.path for row in rows], pa.string()),
        "tgt_text": pa.array([[item.text for item in row.candidates] for row in rows], lists),
        "tgt_img_path": pa.array([[item.path for item in row.candidates] for row in rows], lists),
    }


def _picture(pixels: bytes, size: int) -> Image.Image:
    return Image.frombytes("L", (size, size), pixels)


def _sheet(cells: list[bytes], size: int) -> Image.Image:
    """Square: four cells make 2 by 2, nine make 3 by 3."""
    side = round(len(cells) ** 0.5)
    sheet = Image.new("L", (side * size, side * size), 255)
    for place, pixels in enumerate(cells):
        row, column = divmod(place, side)
        sheet.paste(_picture(pixels, size), (column * size, row * size))
    return sheet
