"""LLaVA-OneVision in its published sizes, and a tiny one."""

from __future__ import annotations

import dataclasses

from ega_jax.models.anyres import AnyresConfig
from ega_jax.models.llava_onevision_config import LlavaOnevisionConfig
from ega_jax.models.part_presets import QWEN2_7B, QWEN2_TINY
from ega_jax.models.qwen2_config import Qwen2Config
from ega_jax.models.siglip import SiglipConfig


def _squares(tile: int, most: int) -> tuple[tuple[int, int], ...]:
    """Resolutions of 1x1 to most x most tiles."""
    return tuple((tile * rows, tile * columns) for rows in range(1, most + 1) for columns in range(1, most + 1))


_SO400M = SiglipConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=26,
    num_attention_heads=16,
    image_size=384,
    patch_size=14,
)
_ANYRES_384 = AnyresConfig(tile_size=384, grid_size=27, pinpoints=_squares(384, 6))

LLAVA_ONEVISION_PRESETS: dict[str, LlavaOnevisionConfig] = {
    # llava-hf/llava-onevision-qwen2-7b-ov-hf
    "llava_onevision_7b": LlavaOnevisionConfig(
        vision=_SO400M,
        text=dataclasses.replace(QWEN2_7B, vocab_size=152128),
        image=_ANYRES_384,
        image_token_id=151646,
        video_token_id=151647,
    ),
    # llava-hf/llava-onevision-qwen2-0.5b-ov-hf
    "llava_onevision_0.5b": LlavaOnevisionConfig(
        vision=_SO400M,
        text=Qwen2Config(
            vocab_size=152000,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        image=_ANYRES_384,
        image_token_id=151646,
        video_token_id=151647,
    ),
    # The same code with small numbers: trains from scratch on two CPU cores. The vocabulary is the tokenizer's
    # (`LlavaOnevisionConfig.with_vocabulary`); this one fits a byte-level tokenizer of up to 512 entries.
    "llava_onevision_tiny": LlavaOnevisionConfig(
        vision=SiglipConfig(
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        text=QWEN2_TINY,
        image=AnyresConfig(tile_size=32, grid_size=4, pinpoints=_squares(32, 3)),
        image_token_id=510,
        video_token_id=511,
    ),
}
