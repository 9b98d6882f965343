"""MMEB-V2's layout of the image tasks: instructions in columns of their own (arXiv 2507.04590).

`MMEB_Test_Instruct` splits each text of MMEB-eval into an instruction (`qry_inst`, `tgt_inst`: one for all candidates)
and the rest. VLM2Vec-V2 puts them together again so that the result is what MMEB-eval had, whitespace included; scores
shift by a point where it differs. What decides the whitespace is which sides have pictures.
"""

from __future__ import annotations

from typing import Any

from ega_jax.data.records import IMAGE_TOKEN


def with_instructions(values: dict[str, Any], subset: str) -> dict[str, Any]:
    """The cells of a row in MMEB-eval's own columns.

    Args:
      values: cells by column, no nulls: those of MMEB-eval, `qry_inst` and `tgt_inst`.
      subset: its name: VisDial's queries end in two newlines.
    """
    query_has_image, targets_have_images = bool(values["qry_img_path"]), any(values["tgt_img_path"])
    instruction = _without_token(values["qry_inst"])
    if not query_has_image:
        query = f"{instruction} {values['qry_text']}\n" + ("\n" if subset == "VisDial" else "")
    else:
        if targets_have_images:
            instruction = "\n" + instruction.strip()
        query = _with_token(_joined(instruction, values["qry_text"])) + "\n"
    texts = list(values["tgt_text"])
    if targets_have_images:
        instruction = _without_token(values["tgt_inst"])
        if any(text.strip() for text in texts[:1]):
            texts = [_with_token(f"{instruction} {text}") + "\n" for text in texts]
        else:
            # A bare picture as an answer to a picture has no newline at its end; as an answer to a text it has one.
            texts = [_with_token(instruction) + ("" if query_has_image else "\n")] * len(texts)
    return {**values, "qry_text": query, "tgt_text": texts}


def _joined(instruction: str, text: str) -> str:
    return f"{instruction} {text}" if text else instruction


def _with_token(text: str) -> str:
    return f"{IMAGE_TOKEN} {text}".replace(" \n", "\n")


def _without_token(instruction: str) -> str:
    return instruction.replace(IMAGE_TOKEN, "")
