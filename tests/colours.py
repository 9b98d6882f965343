"""A data directory in MMEB's schema that takes milliseconds to write: coloured rectangles of many shapes.

Three training subsets of three lanes, one with explicit negatives, and a validation and test split.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 40),
    "blue": (40, 60, 210),
    "yellow": (230, 210, 30),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
    "orange": (250, 140, 20),
    "purple": (130, 40, 160),
}
SIZES = [(32, 32), (64, 32), (20, 50), (33, 47), (70, 61)]
TOKEN = "<|image_1|>"


def write_colours(directory: Path, rows: int = 40, seed: int = 0) -> Path:
    """Writes the directory and returns it."""
    random = np.random.default_rng(seed)
    images = directory / "images"
    images.mkdir(parents=True)
    paths = {}
    for number in range(rows):
        for name in COLOURS:
            width, height = SIZES[int(random.integers(len(SIZES)))]
            picture = Image.new("RGB", (width, height), COLOURS[name])
            corner = (int(random.integers(width // 2)), int(random.integers(height // 2)))
            ImageDraw.Draw(picture).rectangle((*corner, corner[0] + 6, corner[1] + 6), fill=(128, 128, 128))
            path = images / f"{name}_{number}.png"
            picture.save(path)
            paths[name, number] = f"images/{path.name}"
    names = list(COLOURS)

    def name_of(row: int) -> str:
        return names[(row * 3 + row // len(names)) % len(names)]

    def other(row: int) -> str:
        return names[(names.index(name_of(row)) + 1 + row % (len(names) - 1)) % len(names)]

    train = {
        "Name": [(f"{TOKEN}\nWhich colour is it?\n", paths[name_of(r), r], name_of(r), "") for r in range(rows)],
        "Find": [
            (f"Find {name_of(r)} thing {r}\n", "", f"{TOKEN}\nA picture.", paths[name_of(r), r]) for r in range(rows)
        ],
        "Match": [
            (
                f"{TOKEN}\nFind the same colour.\n",
                paths[name_of(r), r],
                f"{TOKEN}\nA picture.",
                paths[name_of(r), rows - 1 - r],
            )
            for r in range(rows)
        ],
    }
    for subset, pairs in train.items():
        lines = []
        for r, (query, query_image, positive, positive_image) in enumerate(pairs):
            negative = subset == "Match" and r % 3 == 0
            lines.append(
                {
                    "qry": query,
                    "qry_image_path": query_image,
                    "pos_text": positive,
                    "pos_image_path": positive_image,
                    "neg_text": f"{TOKEN}\nA picture." if negative else "",
                    "neg_image_path": paths[other(r), r] if negative else "",
                }
            )
        _write(directory / subset / "original.jsonl", lines)
        for split in ("validation", "test"):
            lines = []
            for r in range(0, rows, 4):
                gold = (pairs[r][2], pairs[r][3])
                wrong = [(n, "") for n in names if n != name_of(r)]
                if subset != "Name":
                    wrong = [(f"{TOKEN}\nA picture.", paths[n, r]) for n in names if n != name_of(r)]
                texts, files = zip(gold, *wrong, strict=True)
                lines.append(
                    {
                        "qry_text": pairs[r][0],
                        "qry_img_path": pairs[r][1],
                        "tgt_text": list(texts),
                        "tgt_img_path": list(files),
                    }
                )
            _write(directory / subset / f"{split}.jsonl", lines)
    metadata = {
        "Name": {"meta_task": "classification", "distribution": "in"},
        "Find": {"meta_task": "retrieval", "distribution": "in"},
        "Match": {"meta_task": "retrieval", "distribution": "out"},
    }
    (directory / "subsets.json").write_text(json.dumps(metadata))
    return directory


def _write(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
