"""Rows in MMEB's columns, written as files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

TRAIN = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")
EVAL = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
TOKEN = "<|image_1|>"
GOOD = (f"{TOKEN}\nRepresent  it\n", "images/0.png", "a  label ", "")


def write(directory, subset, split, rows, suffix="parquet", names=None):
    """Writes rows, dicts or tuples in the order of the columns, as one shard; returns the file."""
    names = names or (EVAL if split in ("test", "validation") else TRAIN)
    rows = [row if isinstance(row, dict) else dict(zip(names, row, strict=False)) for row in rows]
    file = directory / subset / f"{split}-00000-of-00001.{suffix}"
    file.parent.mkdir(exist_ok=True)
    if suffix == "parquet":
        columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
        pq.write_table(pa.table(columns), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
