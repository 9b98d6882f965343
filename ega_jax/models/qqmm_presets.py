"""QQMM in its published size, and a tiny one."""

from __future__ import annotations

from ega_jax.models.part_presets import NAVIT_630M, NAVIT_TINY, QWEN2_7B, QWEN2_TINY
from ega_jax.models.qqmm_config import QqmmConfig
from ega_jax.models.qqmm_images import QqmmImageConfig

QQMM_PRESETS: dict[str, QqmmConfig] = {
    # youzexue/QQMM-embed-v1
    "qqmm_7b": QqmmConfig(
        vision=NAVIT_630M,
        text=QWEN2_7B,
        image=QqmmImageConfig(),
        image_token_id=151646,
    ),
    # The same code with small numbers: trains from scratch on two CPU cores. A picture of 32 px becomes 6 x 6 patches,
    # one of 64 px 8 x 8; the vocabulary is the tokenizer's.
    "qqmm_tiny": QqmmConfig(
        vision=NAVIT_TINY,
        text=QWEN2_TINY,
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
