"""MMEB-train as it is downloaded, but small: all 20 subsets under their published names, and every trap of its rows."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

TOKEN = "<|image_1|>"
LABELS = ("cat", "dog", "tram", "pear")

# What the query and the target of each subset consist of: t(ext), i(mage) or both.
SUBSETS = {
    "ImageNet_1K": ("it", "t"),  # the evaluation set calls it ImageNet-1K
    "N24News": ("it", "t"),
    "HatefulMemes": ("it", "t"),
    "VOC2007": ("it", "t"),
    "SUN397": ("it", "t"),
    "OK-VQA": ("it", "t"),
    "A-OKVQA": ("it", "t"),
    "DocVQA": ("it", "t"),
    "InfographicsVQA": ("it", "t"),
    "ChartQA": ("it", "t"),
    "Visual7W": ("it", "t"),
    "VisDial": ("t", "i"),
    "CIRR": ("it", "i"),
    "VisualNews_t2i": ("t", "i"),
    "VisualNews_i2t": ("i", "t"),
    "MSCOCO_t2i": ("t", "i"),
    "MSCOCO_i2t": ("i", "t"),
    "NIGHTS": ("i", "i"),
    "WebQA": ("t", "it"),
    "MSCOCO": ("it", "i"),
}


def write_mmeb(directory: Path, rows: int = 10) -> Path:
    """Writes the directory, with one bad row in each of three subsets, and returns it."""
    random = np.random.default_rng(0)
    for name, (query, target) in SUBSETS.items():
        pictures: dict[str, bytes] = {}

        def picture(role, row, name=name, pictures=pictures):
            path = f"images/{name}/Train/{name}_{role}_{row}.jpg"
            pictures[path] = _jpeg(random)
            return path

        lines = [_row(name, query, target, row, picture) for row in range(rows)]
        home = directory / name
        home.mkdir(parents=True)
        for split in ("original", "diverse_instruction"):
            pq.write_table(pa.Table.from_pylist(lines), home / f"{split}-00000-of-00001.parquet")
        (home / "._original-00000-of-00001.parquet").write_bytes(b"Mac OS X")
        _store(directory, name, pictures)
    return directory


def _row(name, query, target, row, picture):
    label = LABELS[row % len(LABELS)]
    text = {"it": f"{TOKEN}\nWhat is in  picture {row}?\n", "i": f"{TOKEN}\nRepresent the given image.\n"}
    line = {
        "qry": text.get(query, f"Find me an image: {label} {row}\n"),
        "qry_image_path": picture("qry", row) if "i" in query else "",
        "pos_text": {"t": label, "i": f"{TOKEN}\nRepresent the image."}.get(target, f"{TOKEN}\nThe image. {row}\n"),
        "pos_image_path": picture("pos", row) if "i" in target else "",
        "neg_text": "",
        "neg_image_path": "",
    }
    wrong = LABELS[(row + 1) % len(LABELS)]
    if name == "WebQA":  # a token without an image
        line["qry"] = f"{TOKEN}\n{line['qry']}"
    elif name == "OK-VQA":  # a string
        line["neg_text"] = wrong
    elif name == "ChartQA":  # a list that is written as Python writes it
        line["neg_text"] = str([wrong, "it's", ""][: 2 + row % 2])
    elif name == "VisDial":  # images alone, listed in a string
        line["neg_image_path"] = str([picture("neg", row)])
    elif name == "CIRR":  # text without its image: no negative
        line["neg_text"] = f"{TOKEN}\nRepresent the image."
    elif name == "N24News":  # equal to the positive
        line["neg_text"] = label
    if row == 2:
        if name == "SUN397":
            line |= {"pos_text": "", "pos_image_path": ""}
        elif name == "DocVQA":
            line["qry"] = f"{TOKEN} {TOKEN}\nTwo tokens for one picture\n"
        elif name == "NIGHTS":
            line["pos_image_path"] = "images/NIGHTS/Train/nowhere.jpg"
    return line


def _store(directory, name, pictures):
    """Where pictures end up when people unpack archives: in place, a folder too deep, or still in the zip."""
    if name in ("VOC2007", "VisDial", "MSCOCO"):
        path = directory / "images_zip" / f"{name}.zip"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for relative, content in pictures.items():
                member = Path(relative.removeprefix("images/"))
                archive.writestr(str(member), content)
                archive.writestr(f"__MACOSX/{member.with_name(f'._{member.name}')}", b"Mac OS X")
        return
    home = directory / "MMEB-train" if name in ("CIRR", "OK-VQA") else directory
    for relative, content in pictures.items():
        path = home / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")


def _jpeg(random):
    height, width = random.integers(12, 60, 2)
    corners = random.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(corners).resize((int(width), int(height)), Image.Resampling.BILINEAR).save(file, "JPEG")
    return file.getvalue()
