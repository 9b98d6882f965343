"""The tokenizer: Qwen2's byte-level BPE, read from a `tokenizer.json` or trained here.

Only the `tokenizers` library is used: one file, no code from the model's directory, no torch. The class below encodes
*plain text*, always: a user who types `<image>` or `<|im_start|>` gets the characters that were typed, never the
control token, so that no text can close a chat turn or claim an image that is not there. Control tokens enter a prompt
by their ids alone (`ega_jax.data.prompts`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from ega_jax.data.records import is_unicode
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jaxtyping import Int32

PAD_TOKEN = "<|endoftext|>"
START_TOKEN = "<|im_start|>"
END_TOKEN = "<|im_end|>"
IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
CHAT_TOKENS = (PAD_TOKEN, START_TOKEN, END_TOKEN)
CONTROL_TOKENS = (*CHAT_TOKENS, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)
"""In the order of LLaVA-OneVision's ids 151643 to 151647."""

# Qwen2's pre-tokenization: contractions, words with one leading mark, single digits, punctuation, runs of whitespace.
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = 256
_FILE = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class VisualTokens:
    """The control tokens that stand for pictures, by name; what differs between the tokenizers of backbones.

    Attributes:
      image, video: placeholders of visual tokens.
      start, end: what stands around a picture's placeholders, if anything.
    """

    image: str = IMAGE_PLACEHOLDER
    video: str = VIDEO_PLACEHOLDER
    start: str | None = None
    end: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order of Qwen2-VL's ids."""
        return tuple(name for name in (self.start, self.end, self.image, self.video) if name is not None)


DEFAULT_VISUAL_TOKENS = VisualTokens()


class Tokenizer:
    """Plain text to ids, and the ids of the control tokens.

    Attributes:
      pad_id, start_id, end_id: the ids of `<|endoftext|>`, `<|im_start|>` and `<|im_end|>`.
      image_id: the id of a picture's placeholder (`<image>` where no other is named).
      video_id: that of a video's (`<video>`), or None where there is none.
      vocab_size: one more than the largest id, so the smallest embedding table that holds every id. A pre-trained
        table may be larger: LLaVA-OneVision pads 151648 to 152128.
    """

    def __init__(self, backend: tokenizers.Tokenizer, visual: VisualTokens = DEFAULT_VISUAL_TOKENS) -> None:
        """Wraps a copy of `backend`; its truncation, padding and automatic control tokens are not used.

        Raises:
          BadInputError: a control token other than a video's is missing or is not marked special.
        """
        self._json, self._visual = backend.to_str(), visual
        self._plain = tokenizers.Tokenizer.from_str(self._json)
        # A tokenizer.json may carry both, and both would break the count of tokens silently.
        self._plain.no_truncation()
        self._plain.no_padding()
        self._plain.encode_special_tokens = True
        added = self._plain.get_added_tokens_decoder()
        special = {token.content: index for index, token in added.items() if token.special}
        for name in (*CHAT_TOKENS, *visual.names):
            if name not in special and name != visual.video:
                raise BadInputError(f"the tokenizer has no special token {name!r}; it has {sorted(special)}")
        self.pad_id = special[PAD_TOKEN]
        self.start_id = special[START_TOKEN]
        self.end_id = special[END_TOKEN]
        self.image_id = special[visual.image]
        self.video_id = special.get(visual.video)
        self._special = special
        self.vocab_size = 1 + max(self._plain.get_vocab(with_added_tokens=True).values())

    def encode_batch(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " T"]]:
        """Ids of each text, as plain text: control tokens inside it are spelled out like any other
        characters.

        Raises:
          ValueError: a text is not valid Unicode (it holds half of a surrogate pair).
        """
        try:
            encodings = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            for index, text in enumerate(texts):
                if not is_unicode(text):
                    raise ValueError(f"text {index} is not valid Unicode: {text!r:.80}") from None
            raise
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """The text that `ids` stand for, control tokens included."""
        return self._plain.decode([int(index) for index in ids], skip_special_tokens=False)

    def control_id(self, name: str) -> int:
        """The id of a control token, by name.

        Raises:
          KeyError: there is none.
        """
        return self._special[name]

    @property
    def visual_ids(self) -> dict[str, int]:
        """The ids of the tokens that stand for pictures and around them, by their fields in `config.json`."""
        fields = {"image": "image", "video": "video", "start": "vision_start", "end": "vision_end"}
        names = {f"{field}_token_id": getattr(self._visual, part) for part, field in fields.items()}
        return {field: self._special[name] for field, name in names.items() if name in self._special}

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides the ids: equal fingerprints give equal token lengths, whatever the
        file."""
        return hashlib.sha256(self._json.encode()).hexdigest()[:16]

    def save(self, directory: Path | str) -> None:
        """Writes `tokenizer.json`, and a `tokenizer_config.json` that transformers' AutoTokenizer reads."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "Qwen2Tokenizer",
            "pad_token": PAD_TOKEN,
            "eos_token": END_TOKEN,
            "bos_token": None,
            "unk_token": None,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        }
        _replace(directory / _FILE, self._json)
        _replace(directory / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    def __reduce__(self) -> tuple[Callable[[str, VisualTokens], Tokenizer], tuple[str, VisualTokens]]:
        # The backend forgets `encode_special_tokens` when it is pickled: build anew, as plain as before.
        return _from_json, (self._json, self._visual)


def load_tokenizer(
    directory: Path | str, *, visual: VisualTokens = DEFAULT_VISUAL_TOKENS, add_image_token: bool = False
) -> Tokenizer:
    """Reads `tokenizer.json` from a model directory (or the file itself).

    Args:
      directory: holds `tokenizer.json`. Nothing else in it is read.
      visual: the control tokens that stand for pictures.
      add_image_token: append the picture's placeholder where the file lacks it, with the next free id: what QQMM does
        with Qwen2's tokenizer, which ends at 151645.

    Raises:
      BadInputError: no such file, not a tokenizer, or a control token is missing.
    """
    path = Path(directory)
    path = path / _FILE if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadInputError(
            f"{path}: cannot read a tokenizer there (no such file): copy the one there that the model was trained with"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot read a tokenizer there ({error})") from error
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise BadInputError(f"{path}: not a tokenizer.json that this version of tokenizers reads ({error})") from error
    if add_image_token and backend.token_to_id(visual.image) is None:
        backend.add_special_tokens([_control(visual.image)])
    try:
        return Tokenizer(backend, visual)
    except BadInputError as error:
        hint = "" if add_image_token or visual.image not in str(error) else "; add_image_token=True adds it"
        raise BadInputError(f"{path}: {error}{hint}") from error


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, visual: VisualTokens = DEFAULT_VISUAL_TOKENS
) -> Tokenizer:
    """Trains a byte-level BPE with Qwen2's rules: NFC, Qwen2's split, bytes, control tokens after the merges.

    The result depends on the multiset of texts alone, not on their order nor on the number of threads.

    Args:
      texts: the corpus.
      vocab_size: ids in all, control tokens included; a small corpus may run out of pairs to merge and end
        below it.
      visual: the control tokens that stand for pictures.

    Raises:
      ValueError: `vocab_size` leaves no room for the 256 bytes and the control tokens.
    """
    control = (*CHAT_TOKENS, *visual.names)
    smallest = _BYTES + len(control)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be at least {smallest} (256 bytes and control tokens), got {vocab_size}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([_control(name) for name in control])
    return Tokenizer(backend, visual)


def _control(name: str) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(name, special=True, normalized=False)


def _from_json(text: str, visual: VisualTokens) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), visual)


def _replace(path: Path, text: str) -> None:
    """Writes a whole file or leaves the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
