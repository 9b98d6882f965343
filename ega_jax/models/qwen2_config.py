"""What a Qwen2 decoder is, and its two-way reading of the published fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ega_jax.errors import BadInputError
from ega_jax.models.published_config import expect


@dataclasses.dataclass(frozen=True)
class Qwen2Config:
    """Sizes of the decoder.

    Attributes:
      num_key_value_heads: heads of keys and values; each serves a group of query heads.
      rope_theta: base of the rotary frequencies.
      max_position_embeddings: longest sequence that the weights were trained for, tokens.
      mrope_section: how many of each head's head_dim / 2 rotary angles turn with the position in time, in height and in
        width (M-RoPE, arXiv 2409.12191); None where a token has one position.
      tie_word_embeddings: the published head is the embedding table (it concerns export alone).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = False
    mrope_section: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise BadInputError(
                f"text hidden_size={self.hidden_size} is not an even number for each of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise BadInputError(
                f"text num_key_value_heads={self.num_key_value_heads} does not divide "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.mrope_section is not None and sum(self.mrope_section) != self.head_dim // 2:
            raise BadInputError(
                f"text mrope_section={self.mrope_section} must sum to half of a head's {self.head_dim} features"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


QWEN2_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
}
"""What transformers' Qwen2 takes for a field of which nothing is said."""


def qwen2_from_hf(
    hf: Mapping[str, Any],
    *,
    model_type: str = "qwen2",
    defaults: Mapping[str, Any] = QWEN2_DEFAULTS,
    mrope: bool = False,
    where: str = "text_config.",
) -> Qwen2Config:
    """Reads the decoder's published fields, of transformers 4.37 to 5.

    Args:
      hf: the fields.
      model_type: what they must say they are, if they say it.
      defaults: of the fields that are left out.
      mrope: whether a token has three positions.
      where: what an error calls the part of the file.

    Raises:
      BadInputError: a setting that is not carried out here, by name.
    """
    expect(hf, "model_type", model_type, where=where)
    expect(hf, "hidden_act", "silu", where=where)
    expect(hf, "use_sliding_window", False, where=where)
    if set(hf.get("layer_types") or ()) - {"full_attention"}:
        raise BadInputError(f"config.json: {where}layer_types={hf['layer_types']}: only 'full_attention' is built")
    # 4.x has rope_theta and rope_scaling, 5.x both in rope_parameters.
    rope = {"rope_theta": hf.get("rope_theta"), **(hf.get("rope_scaling") or {}), **(hf.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" and not (mrope and kind == "mrope"):
        raise BadInputError(f"config.json: {where}rotary scaling {kind!r} is not supported; only 'default' is")
    sizes = {name: hf.get(name, default) for name, default in defaults.items() if name != "rope_theta"}
    config = Qwen2Config(
        **{**sizes, "num_key_value_heads": sizes["num_key_value_heads"] or sizes["num_attention_heads"]},
        rope_theta=float(rope["rope_theta"] or defaults["rope_theta"]),
        mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))) if mrope else None,
        tie_word_embeddings=hf.get("tie_word_embeddings", False),
    )
    expect(hf, "head_dim", config.head_dim, where=where)
    return config


def qwen2_to_hf(config: Qwen2Config) -> dict[str, Any]:
    """The decoder's published fields, as transformers 4.45 to 5 read them."""
    sizes = dataclasses.asdict(config)
    del sizes["mrope_section"]
    fields = {"hidden_act": "silu", "use_sliding_window": False, **sizes}
    # 4.x reads rope_theta and rope_scaling, 5.x rope_parameters, or the others where those are absent.
    if config.mrope_section is not None:
        return {**fields, "rope_scaling": {"type": "mrope", "mrope_section": list(config.mrope_section)}}
    return {**fields, "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}}
