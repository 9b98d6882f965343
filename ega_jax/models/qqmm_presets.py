"""QQMM in its published size, and a tiny one."""

from __future__ import annotations

from ega_jax.models.navit import NavitConfig
from ega_jax.models.qqmm_config import QqmmConfig
from ega_jax.models.qqmm_images import QqmmImageConfig
from ega_jax.models.qwen2_config import Qwen2Config

QQMM_PRESETS: dict[str, QqmmConfig] = {
    # youzexue/QQMM-embed-v1
    "qqmm_7b": QqmmConfig(
        vision=NavitConfig(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=16,
            patch_size=14,
        ),
        text=Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
        ),
        image=QqmmImageConfig(),
        image_token_id=151646,
    ),
    # The same code with small numbers: trains from scratch on two CPU cores. A picture of 32 px becomes 6 x 6 patches,
    # one of 64 px 8 x 8; the vocabulary is the tokenizer's.
    "qqmm_tiny": QqmmConfig(
        vision=NavitConfig(
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=2,
            num_attention_heads=4,
            patch_size=8,
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
        ),
        image=QqmmImageConfig(
            patch_size=8,
            enlarge_to=48,
            shortest_edge=16,
            longest_edge=128,
            max_patches=256,
            max_row_patches=512,
            min_resized_patches=36,
        ),
        image_token_id=510,
    ),
}
