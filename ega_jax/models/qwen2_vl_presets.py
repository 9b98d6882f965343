"""Qwen2-VL in its published sizes, and a tiny one."""

from __future__ import annotations

import dataclasses

from ega_jax.models.part_presets import NAVIT_630M, NAVIT_TINY, QWEN2_7B, QWEN2_TINY
from ega_jax.models.qwen2_config import Qwen2Config
from ega_jax.models.qwen2_vl_config import Qwen2VlConfig
from ega_jax.models.qwen2_vl_images import Qwen2VlImageConfig
from ega_jax.models.qwen2_vl_names import FRAMES

_TOWER = dataclasses.replace(NAVIT_630M, frames=FRAMES)

QWEN2_VL_PRESETS: dict[str, Qwen2VlConfig] = {
    # Qwen/Qwen2-VL-7B-Instruct
    "qwen2_vl_7b": Qwen2VlConfig(
        vision=_TOWER,
        text=dataclasses.replace(QWEN2_7B, mrope_section=(16, 24, 24)),
        image=Qwen2VlImageConfig(),
    ),
    # Qwen/Qwen2-VL-2B-Instruct
    "qwen2_vl_2b": Qwen2VlConfig(
        vision=_TOWER,
        text=Qwen2Config(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            mrope_section=(16, 24, 24),
        ),
        image=Qwen2VlImageConfig(),
    ),
    # The same code with small numbers: trains from scratch on two CPU cores. The vocabulary is the tokenizer's.
    "qwen2_vl_tiny": Qwen2VlConfig(
        vision=dataclasses.replace(NAVIT_TINY, frames=FRAMES),
        text=dataclasses.replace(QWEN2_TINY, mrope_section=(4, 6, 6)),
        image=Qwen2VlImageConfig(patch_size=8, min_pixels=32 * 32, max_pixels=96 * 96),
        image_token_id=510,
        video_token_id=511,
        vision_start_token_id=508,
        vision_end_token_id=509,
    ),
}
