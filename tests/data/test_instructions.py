"""MMEB-V2's columns become MMEB-eval's texts, to the character (the rules are VLM2Vec-V2's image parsers)."""

import pytest

from ega_jax.data.mmeb import read_eval

from .mmeb_rows import TOKEN, write

PICTURE, OTHER = "images/0.png", "images/1.png"


def row(query, query_image, targets, target_images, query_instruction, target_instruction=""):
    return {
        "qry_inst": query_instruction,
        "qry_text": query,
        "qry_img_path": query_image,
        "tgt_inst": target_instruction,
        "tgt_text": targets,
        "tgt_img_path": target_images,
    }


CASES = {
    "a picture is classified": (
        "ImageNet-1K",
        row("", PICTURE, ["cat", "dog"], ["", ""], f"{TOKEN} Represent the given image for classification \n"),
        f"{TOKEN}  Represent the given image for classification\n\n",
        ["cat", "dog"],
    ),
    "a question about a picture": (
        "OK-VQA",
        row("What is it?", PICTURE, ["a  cat", "dog"], ["", ""], f"{TOKEN}Answer the question:"),
        f"{TOKEN} Answer the question: What is it?\n",
        ["a  cat", "dog"],
    ),
    "a text finds a picture": (
        "MSCOCO_t2i",
        row("a cat", "", ["", ""], [PICTURE, OTHER], "Find me an image:", f"{TOKEN}Represent the image."),
        "Find me an image: a cat\n",
        [f"{TOKEN} Represent the image.\n"] * 2,
    ),
    "a dialogue finds a picture": (
        "VisDial",
        row("Q: a cat?", "", ["", ""], [PICTURE, OTHER], "Find it:", f"{TOKEN}Represent the image."),
        "Find it: Q: a cat?\n\n",
        [f"{TOKEN} Represent the image.\n"] * 2,
    ),
    "a text finds a picture with a caption": (
        "WebQA",
        row("who?", "", ["one", "two \n"], [PICTURE, OTHER], f"{TOKEN}Find:", f"{TOKEN}Represent:"),
        "Find: who?\n",
        [f"{TOKEN} Represent: one\n", f"{TOKEN} Represent: two\n\n"],
    ),
    "a picture finds a picture": (
        "NIGHTS",
        row("", PICTURE, ["", ""], [OTHER, PICTURE], f"{TOKEN} Find a similar one. ", f"{TOKEN}Represent it. \n"),
        f"{TOKEN}\nFind a similar one.\n",
        [f"{TOKEN} Represent it.\n"] * 2,
    ),
    "a picture finds a picture with a caption": (
        "RefCOCO-Matching",
        row("left cat", PICTURE, ["a", "b"], [OTHER, OTHER], f"{TOKEN}Pick:", f"{TOKEN}Represent:"),
        f"{TOKEN}\nPick: left cat\n",
        [f"{TOKEN} Represent: a\n", f"{TOKEN} Represent: b\n"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_texts_are_put_together_as_in_mmeb_eval(data, suffix, case):
    subset, cells, query, targets = CASES[case]
    write(data, subset, "test", [cells], suffix)
    read = read_eval(data, subset)
    assert read.queries[0].text == query
    distinct = [read.targets[place].text for place in read.candidates[0]]
    assert distinct == targets
    assert len(read.queries[0].images) == bool(cells["qry_img_path"])


def test_rows_without_instructions_stay_as_they_are(data):
    write(data, "GQA", "test", [row(f"{TOKEN}\nWhat?  \n", PICTURE, ["cat \n"], [""], "")])
    read = read_eval(data, "GQA")
    assert (read.queries[0].text, read.targets[0].text) == (f"{TOKEN}\nWhat?  \n", "cat \n")
