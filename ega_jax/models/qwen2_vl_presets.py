"""Qwen2-VL in its published sizes, and a tiny one."""

from __future__ import annotations

from ega_jax.models.navit import NavitConfig
from ega_jax.models.qwen2_config import Qwen2Config
from ega_jax.models.qwen2_vl_config import Qwen2VlConfig
from ega_jax.models.qwen2_vl_images import Qwen2VlImageConfig
from ega_jax.models.qwen2_vl_names import FRAMES

_TOWER = NavitConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    frames=FRAMES,
)

QWEN2_VL_PRESETS: dict[str, Qwen2VlConfig] = {
    # Qwen/Qwen2-VL-7B-Instruct
    "qwen2_vl_7b": Qwen2VlConfig(
        vision=_TOWER,
        text=Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            mrope_section=(16, 24, 24),
        ),
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
        vision=NavitConfig(
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=2,
            num_attention_heads=4,
            patch_size=8,
            frames=FRAMES,
        ),
        text=Qwen2Config(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_theta=1e4,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            mrope_section=(4, 6, 6),
        ),
        image=Qwen2VlImageConfig(patch_size=8, min_pixels=32 * 32, max_pixels=96 * 96),
        image_token_id=510,
        video_token_id=511,
        vision_start_token_id=508,
        vision_end_token_id=509,
    ),
}
