"""The models that are compared, and what they are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def model_config(name: str) -> Any:
    from ega_jax.models import PRESETS
    from ega_jax.models.qwen2_config import Qwen2Config
    from ega_jax.models.siglip import SiglipConfig

    if name != "small":
        return PRESETS[f"llava_onevision_{name}"]
    return dataclasses.replace(
        PRESETS["llava_onevision_0.5b"],
        vision=SiglipConfig(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=6,
            image_size=224,
            patch_size=14,
        ),
        text=Qwen2Config(
            vocab_size=8192,
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
        ),
        image=tiles_of(224, patch_size=14),
        image_token_id=7,
        video_token_id=9,
    )


def with_tiles(config: Any, side: int | None) -> Any:
    """The same model for tiles of another size, in pixels: fewer patches and visual tokens, the same layers."""
    if side is None:
        return config
    vision = dataclasses.replace(config.vision, image_size=side)
    return dataclasses.replace(config, vision=vision, image=tiles_of(side, vision.patch_size))


def tiles_of(side: int, patch_size: int) -> Any:
    """Square tiles, and pictures of one or of two."""
    from ega_jax.models.anyres import AnyresConfig

    pinpoints = ((side, side), (side, 2 * side), (2 * side, side))
    return AnyresConfig(tile_size=side, grid_size=side // patch_size, pinpoints=pinpoints)


def save(config: Any, directory: Path) -> None:
    from flax import nnx

    import ega_jax.models

    ega_jax.models.save(ega_jax.models.build(config, rngs=nnx.Rngs(0)), directory)


def batch(config: Any, rows: int, *, pictures: bool, room: int = 64, seed: int | None = None) -> dict[str, np.ndarray]:
    """Rows of different lengths, padded on the right: texts, each after a square picture of one tile and its base.

    Args:
      config: the model's.
      rows: how many.
      pictures: whether texts come after pictures.
      room: for the tokens of a text; at least 4 are padding.
      seed: decides all; by default that of `pictures`.
    """
    from ega_jax.models import anyres

    rng = np.random.default_rng(int(pictures) if seed is None else seed)
    side = config.image.tile_size
    sources = [anyres.token_sources([(side, side)] if pictures else [], config.image) for _ in range(rows)]
    words = rng.integers(10, room - 4, rows)
    visual = len(sources[0].index)
    length = visual + room
    ids = rng.integers(10, min(8000, config.text.vocab_size - 10), (rows, length)).astype(np.int32)
    ids[:, :visual] = config.image_token_id
    mask = np.arange(length) < visual + words[:, None]
    index = np.zeros((rows, length, sources[0].index.shape[1] if pictures else 1), np.int32)
    weight = np.zeros(index.shape, np.float32)
    for row, source in enumerate(sources):
        if pictures:
            tiles = row * source.num_tiles
            index[row, :visual] = anyres.shift_tiles(source.index, tiles, config.image.features_per_tile)
            weight[row, :visual] = source.weight
    slots = sum(source.num_tiles for source in sources)
    tiles = rng.uniform(-1, 1, (slots, side, side, 3)).astype(np.float32)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "tiles": tiles,
        "visual_index": index,
        "visual_weight": weight,
    }


def count(config: Any, inputs: Mapping[str, np.ndarray]) -> tuple[int, float, float]:
    """(tokens, and products times two of a forward pass of the tower with its projector, and of the decoder)."""
    vision, text = config.vision, config.text
    rows, length = inputs["input_ids"].shape
    tiles, patches = len(inputs["tiles"]), vision.num_patches
    per_patch = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    tower = 2 * tiles * patches * vision.num_hidden_layers * (per_patch + 2 * patches * vision.hidden_size)
    tower += 2 * tiles * patches * text.hidden_size * (vision.hidden_size + text.hidden_size)
    key_size = text.num_key_value_heads * text.head_dim
    per_token = 2 * text.hidden_size * (text.hidden_size + key_size) + 3 * text.hidden_size * text.intermediate_size
    # A causal query meets half of the keys.
    decoder = 2 * rows * length * text.num_hidden_layers * (per_token + length * text.hidden_size)
    return rows * length, float(tower), float(decoder)
