"""Prompts: one side of a pair as the token ids of a chat turn.

The embedding is the hidden state of the last prompt token, the newline after `assistant`. LLaVA-OneVision's
template (its conversion script and chat_template.json) puts all images first and adds no system message:

    <|im_start|>user\\n<image>\\n<image>\\nTEXT<|im_end|>\\n<|im_start|>assistant\\n

QQMM's (chat.py of QQMM-embed) is the same with a system turn before it. Qwen2-VL's (its chat_template.json) has the
system turn of a helpful assistant, and each image between two control tokens with no newline after it:

    <|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>TEXT

A prompt is rendered to *pieces*, so
that control tokens and image slots enter by id and everything else is encoded as plain text;
`ega_jax.data.tokenizer` says why.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import numpy as np

from ega_jax.data.tokenizer import DEFAULT_VISUAL_TOKENS, END_TOKEN, START_TOKEN, VisualTokens
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int32

    from ega_jax.data.records import Side
    from ega_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class Control:
    """A control token of the template, by name."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """Plain text: a part of the template, then a part of the user's.

    The two are one piece because they are tokenized together: a text that begins with a newline shares a
    token with the template's newline before it.
    """

    template: str
    user: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ImageSlot:
    """Where the visual tokens of image `index` of the side go."""

    index: int


Piece = Control | Text | ImageSlot


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A backbone's chat template: what differs from one to the next.

    Attributes:
      system: the text of the system turn, if there is one.
      tokens: the names of the tokens that stand for images and around them.
      after_image: the text after each image.
    """

    system: str | None = None
    tokens: VisualTokens = DEFAULT_VISUAL_TOKENS
    after_image: str = "\n"


LLAVA_ONEVISION = Template()
QQMM = Template(
    system=(
        "You are an AI assistant whose name is QQMM.\n"
        "- QQMM is a multi-modality conversational language model that is developed by Tencent QQ Team "
        "(腾讯QQ团队). It is designed to be helpful, honest, and harmless.\n"
        "- QQMM can understand and communicate fluently in the language chosen by the user such as English "
        "and 中文.\n"
        "- QQMM is capable of comprehending and articulating responses effectively based on the provided "
        "image."
    )
)
QWEN2_VL = Template(
    system="You are a helpful assistant.",
    tokens=VisualTokens("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    after_image="",
)

TEMPLATES = {"llava_onevision": LLAVA_ONEVISION, "qqmm": QQMM, "qwen2_vl": QWEN2_VL}
"""Template by `model_type`."""


def template_of(model_type: str, system: str | None = None) -> Template:
    """A backbone's template; `system` takes the place of its system turn, and "" leaves that out."""
    template = TEMPLATES[model_type]
    return template if system is None else dataclasses.replace(template, system=system or None)


def render(side: Side, template: Template = LLAVA_ONEVISION) -> list[Piece]:
    """The prompt of one side, in order; no two `Text` pieces are adjacent."""
    pieces: list[Piece] = []
    if template.system is not None:
        pieces += [Control(START_TOKEN), Text("system\n" + template.system), Control(END_TOKEN), Text("\n")]
    pieces.append(Control(START_TOKEN))
    before = "user\n"
    start, end = ([] if name is None else [Control(name)] for name in (template.tokens.start, template.tokens.end))
    for index in range(len(side.images)):
        pieces += [*([Text(before)] if before else []), *start, ImageSlot(index), *end]
        before = template.after_image
    pieces.append(Text(before, strip_image_tokens(side.text, len(side.images))))
    pieces += [Control(END_TOKEN), Text("\n"), Control(START_TOKEN), Text("assistant\n")]
    return pieces


def strip_image_tokens(text: str, images: int) -> str:
    """Removes `<|image_1|>` ... `<|image_n|>` from a text with n images, each with one whitespace character after it.

    MMEB writes "<|image_1|>\\nRepresent ..." and "<|image_1|> Represent ..."; the template brings its own
    newline, so the separator goes with the token (QQMM-embed's MMEB script removes token and newline alike).
    All other whitespace, MMEB's closing newline too, stays. A token without an image is text like any other.
    """
    if not images:
        return text
    return re.sub(rf"<\|image_(?:{'|'.join(str(n) for n in range(1, images + 1))})\|>\s?", "", text)


def encode(
    sides: Sequence[Side],
    tokenizer: Tokenizer,
    image_token_counts: Sequence[Sequence[int]],
    *,
    template: Template = LLAVA_ONEVISION,
    max_tokens: int | None = None,
) -> list[Int32[np.ndarray, " T"]]:
    """Input ids of each side, each image slot as `image_token_counts[i][k]` copies of the image id.

    Args:
      sides: what to encode.
      tokenizer: gives the ids.
      image_token_counts: for each side, the number of visual tokens of each of its images.
      template: the backbone's chat template.
      max_tokens: the longest row. A longer one loses the end of the user's text, and nothing else: visual
        tokens, the template and the closing that is pooled all stay. Compare with `text_lengths` to know
        which rows were cut.

    Raises:
      BadInputError: a row's template and images alone exceed `max_tokens`.
      ValueError: the counts do not fit the images, or a text is not valid Unicode.
    """
    if len(sides) != len(image_token_counts):
        raise ValueError(f"{len(sides)} sides but image token counts for {len(image_token_counts)}")
    prompts = [render(side, template) for side in sides]
    ids_of = _encode_texts(prompts, tokenizer)
    rows = []
    for index, (side, pieces, counts) in enumerate(zip(sides, prompts, image_token_counts, strict=True)):
        if len(counts) != len(side.images) or any(count < 1 for count in counts):
            raise ValueError(f"side {index} has {len(side.images)} images but image token counts {list(counts)}")
        rows.append(_row(index, pieces, counts, ids_of, tokenizer, max_tokens))
    return rows


def text_lengths(
    sides: Sequence[Side], tokenizer: Tokenizer, *, template: Template = LLAVA_ONEVISION
) -> Int32[np.ndarray, " N"]:
    """Tokens of each side's whole prompt, uncut, without the visual ones.

    A row of `encode` without `max_tokens` has this many tokens and those of `image_token_counts`.
    """
    prompts = [render(side, template) for side in sides]
    ids_of = _encode_texts(prompts, tokenizer)
    return np.asarray([sum(_length(piece, ids_of) for piece in pieces) for pieces in prompts], dtype=np.int32)


def _row(
    index: int,
    pieces: list[Piece],
    counts: Sequence[int],
    ids_of: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    max_tokens: int | None,
) -> Int32[np.ndarray, " T"]:
    excess = 0
    if max_tokens is not None:
        excess = max(0, sum(_length(piece, ids_of) for piece in pieces) + sum(counts) - max_tokens)
    parts = []
    for piece in pieces:
        if isinstance(piece, Control):
            parts.append(np.asarray([tokenizer.control_id(piece.name)], dtype=np.int32))
        elif isinstance(piece, ImageSlot):
            parts.append(np.full(counts[piece.index], tokenizer.image_id, dtype=np.int32))
        else:
            ids = ids_of[piece.template + piece.user]
            if piece.user and len(ids) - excess >= len(ids_of[piece.template]):
                ids, excess = ids[: len(ids) - excess], 0
            parts.append(ids)
    if excess:
        raise BadInputError(
            f"side {index}: its {len(counts)} images take {sum(counts)} tokens, with the template more than "
            f"max_tokens = {max_tokens}; those are never cut: raise max_tokens or lower the resolution"
        )
    return np.concatenate(parts)


def _encode_texts(prompts: list[list[Piece]], tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Ids of every distinct text piece, and of the template's part of each alone."""
    texts = dict.fromkeys(
        text
        for pieces in prompts
        for piece in pieces
        if isinstance(piece, Text)
        for text in (piece.template + piece.user, piece.template)
    )
    return dict(zip(texts, tokenizer.encode_batch(list(texts)), strict=True))


def _length(piece: Piece, ids_of: dict[str, np.ndarray]) -> int:
    if isinstance(piece, ImageSlot):
        return 0
    return 1 if isinstance(piece, Control) else len(ids_of[piece.template + piece.user])
