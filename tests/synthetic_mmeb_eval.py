"""MMEB's 36 test sets as they are downloaded, but small: true names, columns, texts and pools; pictures of some pixels.

    python -m tests.synthetic_mmeb_eval DIR [--queries 8] [--candidates 6] [--v2]

No two items are alike, but for labels, which all queries of a classification set share.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ega_jax.data.subsets import SUBSETS
from ega_jax.evaluation.suite import CANDIDATES

from .synthetic_mmeb import SUBSETS as TRAINED
from .synthetic_mmeb import TOKEN

# What the query and the target consist of, where it is not a picture with a question and a text.
_SHAPES = {
    **TRAINED,  # where training has rows of it too
    "FashionIQ": ("it", "i"),
    "Wiki-SS-NQ": ("t", "i"),
    "OVEN": ("it", "it"),
    "EDIS": ("t", "it"),
    "RefCOCO": ("it", "i"),
    "RefCOCO-Matching": ("it", "it"),
    "Visual7W-Pointing": ("it", "i"),
}
_IN_ZIPS = ("VOC2007", "RefCOCO")


def sizes(queries: int = 8, candidates: int = 6) -> tuple[int, dict[str, int]]:
    """What `ega_jax.evaluation.suite` must take for the published sizes, so that this suite is whole."""
    return queries, {name: min(published, candidates) for name, published in CANDIDATES.items()}


def write_mmeb_eval(
    directory: Path, queries: int = 8, candidates: int = 6, *, v2: bool = False, only: Collection[str] = SUBSETS
) -> Path:
    """Writes the directory and returns it.

    Args:
      directory: made here.
      queries: a dataset.
      candidates: a query, where there were as many.
      v2: in MMEB-V2's columns, which keep instructions apart.
      only: the datasets to write.
    """
    random = np.random.default_rng(0)
    for name, info in SUBSETS.items():
        if name not in only:
            continue
        query, target = _SHAPES.get(name, ("it", "t"))
        pool = sizes(queries, candidates)[1][name]
        shared = info.meta_task == "classification"
        pictures: dict[str, bytes] = {}

        def picture(role, place, name=name, pictures=pictures):
            path = f"images/{name}/{name}_{role}_{place}.jpg"
            if path not in pictures:
                pictures[path] = _jpeg(random)
            return path

        columns: dict[str, list] = {column: [] for column in ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")}
        if v2:
            columns |= {"qry_inst": [], "tgt_inst": []}
        for row in range(queries):
            # The gold one first; of labels it is another from row to row.
            places = [(row + k) % pool if shared else row * pool + k for k in range(pool)]
            texts = [f"{name} answer {place}" if "t" in target else "" for place in places]
            question = f"{name} question {row}" if "t" in query else ""
            if v2:
                columns["qry_inst"].append(f"{TOKEN} Look at it:" if "i" in query else "Look for it:")
                columns["tgt_inst"].append(f"{TOKEN} Represent it." if "i" in target else "")
                # Where a picture has no question, the instruction alone stands before it.
                columns["qry_text"].append(question)
            else:
                if "i" in target:
                    texts = [f"{TOKEN} Represent it. {text}".strip() + "\n" for text in texts]
                columns["qry_text"].append(f"{TOKEN} Look at it: {question}\n" if "i" in query else f"{question}\n")
            columns["qry_img_path"].append(picture("query", row) if "i" in query else "")
            columns["tgt_text"].append(texts)
            columns["tgt_img_path"].append([picture("target", place) if "i" in target else "" for place in places])
        home = directory / name
        home.mkdir(parents=True)
        pq.write_table(pa.table(columns), home / "test-00000-of-00001.parquet")
        _store(directory, name, pictures)
    return directory


def _store(directory, name, pictures):
    if name in _IN_ZIPS:
        with zipfile.ZipFile(directory / f"{name}.zip", "w") as archive:
            for path, content in pictures.items():
                archive.writestr(path, content)
        return
    for path, content in pictures.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _jpeg(random):
    height, width = random.integers(12, 40, 2)
    colours = random.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize((int(width), int(height)), Image.Resampling.BILINEAR).save(file, "JPEG")
    return file.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--v2", action="store_true")
    options = parser.parse_args()
    write_mmeb_eval(options.directory, options.queries, options.candidates, v2=options.v2)
