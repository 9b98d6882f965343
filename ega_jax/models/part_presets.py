"""Sizes of the parts that several backbones share."""

from __future__ import annotations

from ega_jax.models.navit import NavitConfig
from ega_jax.models.qwen2_config import Qwen2Config

# The decoder of Qwen2-7B and Qwen2.5-7B; tables of tokens differ from backbone to backbone.
QWEN2_7B = Qwen2Config(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)
# The tower of Qwen2-VL; QQMM's patches are of one frame.
NAVIT_630M = NavitConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
)
# Small numbers, to train from scratch on two CPU cores.
QWEN2_TINY = Qwen2Config(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rope_theta=1e4,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
)
NAVIT_TINY = NavitConfig(
    hidden_size=96,
    intermediate_size=288,
    num_hidden_layers=2,
    num_attention_heads=4,
    patch_size=8,
)
