"""What a row of MMEB means: its items, with what can be mended mended. Pure functions of a row's cells.

`ega_jax.data.mmeb` lists the rules.
"""

from __future__ import annotations

import ast
import collections
import json
import re
import warnings
from typing import Any, NamedTuple

from ega_jax.data.instructions import with_instructions
from ega_jax.data.raw_rows import Value
from ega_jax.data.records import IMAGE_TOKEN, is_unicode

REPEATED_CANDIDATES = "candidates that are in their list twice, dropped"
"""The rule of mending by which a pool gets smaller."""


class Item(NamedTuple):
    """One side of a row: a text, with its image token, and the relative path of its image, or ""."""

    text: str
    path: str


class TrainRow(NamedTuple):
    """A query, its right targets (at least one, distinct), and its wrong ones."""

    query: Item
    positives: list[Item]
    negatives: list[Item]


class EvalRow(NamedTuple):
    """A query and its distinct candidates, the gold one first."""

    query: Item
    targets: list[Item]


class RowProblem(Exception):
    """What is wrong with a row whose place is known further up: (column, clause).

    What stands before a clause's first colon is the same for all rows that are wrong in the same way.
    """


def train_row(values: dict[str, Any], mended: collections.Counter[str]) -> TrainRow:
    """The items of a training row.

    Args:
      values: its cells by column, no nulls.
      mended: counts the use of each rule of mending.

    Raises:
      RowProblem: the row is wrong.
    """
    query = _mend(values["qry"], values["qry_image_path"], "qry", mended)
    positives = _positives(values["pos_text"], values["pos_image_path"], mended)
    negatives = []
    for text, path in _negatives(values["neg_text"], values["neg_image_path"]):
        if not path and IMAGE_TOKEN in text:
            mended["negatives that lack their image, dropped"] += 1
            continue
        negative = _mend(text, path, "neg_text", mended)
        if negative in positives:
            mended["negatives equal to the positive, dropped"] += 1
            continue
        negatives.append(negative)
    return TrainRow(query, positives, negatives)


def eval_row(
    values: dict[str, Any], known: dict[tuple[str, str], Item], mended: collections.Counter[str], subset: str = ""
) -> EvalRow:
    """The items of an evaluation row.

    Args:
      values: its cells by column, no nulls; with instructions in columns of their own, as MMEB-V2 has them, they are
        put together first.
      known: the candidates of earlier rows, because most recur in many lists; this row's are added.
      mended: counts the use of each rule of mending.
      subset: the name of the subset.

    Raises:
      RowProblem: the row is wrong.
    """
    if values.get("qry_inst") or values.get("tgt_inst"):
        values = with_instructions(values, subset)
    query = _mend(values["qry_text"], values["qry_img_path"], "qry_text", mended)
    texts, paths = values["tgt_text"], values["tgt_img_path"]
    if len(texts) != len(paths):
        raise RowProblem("tgt_img_path", f"not as long as tgt_text: {len(paths)} paths for {len(texts)} texts")
    if not texts:
        raise RowProblem("tgt_text", "no candidates, so no gold one")
    targets = []
    for place, pair in enumerate(zip(texts, paths, strict=True)):
        if pair not in known:
            try:
                known[pair] = _mend(*pair, "tgt_text", mended)
            except RowProblem as problem:
                column, reason = problem.args
                raise RowProblem(column, at(reason, place)) from None
        targets.append(known[pair])
    distinct = list(dict.fromkeys(targets))
    if len(distinct) < len(targets):
        mended[REPEATED_CANDIDATES] += len(targets) - len(distinct)
    return EvalRow(query, distinct)


def at(reason: str, place: int) -> str:
    """A reason that concerns one element of a list."""
    return f"{reason}{',' if ':' in reason else ':'} number {place} of the list"


def _mend(text: str, path: str, column: str, mended: collections.Counter[str]) -> Item:
    """Makes the image token of a side agree with its image."""
    tokens = re.findall(r"<\|image_\d+\|>", text)
    if path and not tokens:
        mended["images without an image token, which got one"] += 1
        return Item(f"{IMAGE_TOKEN}\n{text}" if text else IMAGE_TOKEN, path)
    if path and tokens != [IMAGE_TOKEN]:
        raise RowProblem(column, f"one image needs one {IMAGE_TOKEN}: there are {', '.join(tokens)}")
    if tokens and not path:
        mended["image tokens without an image, removed"] += 1
        text = re.sub(r"<\|image_\d+\|>\s?", "", text)
    if not path and not text.strip():
        raise RowProblem(column, "neither text nor image")
    return Item(text, path)


def _positives(texts: Value, paths: Value, mended: collections.Counter[str]) -> list[Item]:
    """The right targets of a row; a string is one of them, whatever it looks like."""
    text_list = [texts] if isinstance(texts, str) else texts
    path_list = [paths] if isinstance(paths, str) else paths
    if not any(text_list):
        text_list = [""] * len(path_list)
    elif not any(path_list):
        path_list = [""] * len(text_list)
    if len(text_list) != len(path_list):
        raise RowProblem(
            "pos_image_path", f"not as long as pos_text: {len(path_list)} paths for {len(text_list)} texts"
        )
    if not text_list:
        raise RowProblem("pos_text", "neither text nor image")
    several = len(text_list) > 1
    items = []
    for place, pair in enumerate(zip(text_list, path_list, strict=True)):
        try:
            items.append(_mend(*pair, "pos_text", mended))
        except RowProblem as problem:
            column, reason = problem.args
            raise RowProblem(column, at(reason, place) if several else reason) from None
    return list(dict.fromkeys(items))


def _negatives(texts: Value, paths: Value) -> list[tuple[str, str]]:
    """The negatives of a row as (text, path), without the empty ones."""
    text_list, path_list = _as_list(texts, "neg_text"), _as_list(paths, "neg_image_path")
    if not any(text_list):
        text_list = [""] * len(path_list)
    elif not any(path_list):
        path_list = [""] * len(text_list)
    if len(text_list) != len(path_list):
        raise RowProblem(
            "neg_image_path", f"not as long as neg_text: {len(path_list)} paths for {len(text_list)} texts"
        )
    return [item for item in zip(text_list, path_list, strict=True) if item[0].strip() or item[1]]


def _as_list(value: Value, column: str) -> list[str]:
    """The strings in a cell that holds one, a list, or a list written as a string."""
    if isinstance(value, list):
        return value
    if not value.lstrip().startswith("["):
        return [value] if value else []
    parsed = _parse_list(value)
    if parsed is not None:
        if not all(map(is_unicode, parsed)):
            raise RowProblem(column, "not valid Unicode: half of a surrogate pair in the list")
        return parsed
    if re.match(r"\s*\[\s*['\"]", value):
        raise RowProblem(column, f"begins like a list but is none: {value[:60]!r}")
    return [value]  # a caption may begin with a bracket


def _parse_list(text: str) -> list[str] | None:
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
                parsed = parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(parsed, list) and all(element is None or isinstance(element, str) for element in parsed):
            return [element or "" for element in parsed]
    return None
