"""From sides to the arrays that a backbone eats: tokens, image tiles, and which features each visual token draws on."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ega_jax.data import images, prompts
from ega_jax.models import anyres

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

    from ega_jax.data.buckets import Bucket
    from ega_jax.data.records import Side
    from ega_jax.data.tokenizer import Tokenizer

Inputs = dict[str, np.ndarray]
"""One batch of a backbone's inputs; `LlavaOnevision.embed` describes the arrays."""


class Sizes(NamedTuple):
    """What each of n sides will take, known without decoding a picture.

    Attributes:
      tokens: (n,) length of the token row, visual tokens included, text uncut.
      tiles: (n,) image tiles.
    """

    tokens: Int32[np.ndarray, " n"]
    tiles: Int32[np.ndarray, " n"]


class Example(NamedTuple):
    """One side, ready to be laid into a batch.

    Attributes:
      input_ids: (T,) token ids, visual placeholders expanded.
      tiles: (S, H, W, 3) image tiles.
      visual_index, visual_weight: (V, K) the sources of its visual tokens, tiles numbered within the side.
    """

    input_ids: Int32[np.ndarray, " T"]
    tiles: UInt8[np.ndarray, "S H W 3"]
    visual_index: Int32[np.ndarray, "V K"]
    visual_weight: Float32[np.ndarray, "V K"]


class Processor:
    """The host side of LLaVA-OneVision."""

    def __init__(self, config: anyres.AnyresConfig, tokenizer: Tokenizer, *, max_tokens: int) -> None:
        """
        Args:
          config: how pictures become tiles.
          tokenizer: text to ids.
          max_tokens: the longest row; a longer text loses its end, visual tokens are never cut.
        """
        self._config = config
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._size = functools.lru_cache(maxsize=1 << 20)(images.image_size)
        # Most pictures of a data set share a few sizes, and laying out their tokens costs as much as decoding them.
        self._sources = functools.lru_cache(maxsize=256)(functools.partial(anyres.token_sources, config=config))
        largest = max(math.prod(resolution) for resolution in config.resolutions) / config.tile_size**2
        # Four taps only where a picture can have so many features that they are resized; one gather is cheaper.
        self._taps = 4 if largest / config.max_patches > 1.1**2 and not config.base_only else 1

    def measure(self, sides: Sequence[Side]) -> Sizes:
        """Tokens and tiles of each side, from the texts and the headers of the image files.

        Raises:
          images.ImageError: a header cannot be read.
        """
        plans = [anyres.plan_row(self._image_sizes(side), self._config) for side in sides]
        text = prompts.text_lengths(sides, self._tokenizer)
        visual = np.asarray([sum(plan.tokens for plan in row) for row in plans], np.int32)
        tiles = np.asarray([sum(plan.tiles for plan in row) for row in plans], np.int32)
        return Sizes(text + visual, tiles)

    def prepare(self, side: Side) -> Example:
        """Decodes and encodes one side.

        Raises:
          images.ImageError: a picture cannot be decoded.
          BadInputError: its pictures alone take more than `max_tokens`.
        """
        pictures = [images.open_image(source) for source in side.images]
        sources = self._sources(tuple((p.height, p.width) for p in pictures))
        (ids,) = prompts.encode([side], self._tokenizer, [sources.tokens_per_image], max_tokens=self._max_tokens)
        return Example(ids, anyres.tiles(pictures, self._config), sources.index, sources.weight)

    def collate(self, examples: Sequence[Example | None], bucket: Bucket, groups: int) -> Inputs:
        """Lays examples into fixed shapes.

        Args:
          examples: `groups` x R of them, in batch order; None is an empty row (it has one real token, so that its
            embedding is finite).
          bucket: the padded sizes; each group of R rows gets R x `bucket.tiles` tile slots that its rows share.
          groups: parts of the batch that are encoded by themselves, each on one device.

        Returns:
          The inputs, every array with leading axes (groups, R) or, for the tiles, (groups, slots).

        Raises:
          ValueError: an example does not fit the bucket.
        """
        rows = len(examples) // groups
        slots, length, size = rows * bucket.tiles, bucket.tokens, self._config.tile_size
        ids = np.full((groups, rows, length), self._tokenizer.pad_id, np.int32)
        mask = np.zeros((groups, rows, length), bool)
        tiles = np.zeros((groups, slots, size, size, 3), np.uint8)
        index = np.zeros((groups, rows, length, self._taps), np.int32)
        weight = np.zeros((groups, rows, length, self._taps), np.float32)
        mask[:, :, 0] = True
        for group in range(groups):
            used = 0
            for row, example in enumerate(examples[group * rows : (group + 1) * rows]):
                if example is None:
                    continue
                tokens, count = len(example.input_ids), len(example.tiles)
                if tokens > length or used + count > slots:
                    raise ValueError(f"{tokens} tokens and {used + count} tiles do not fit {bucket} with {rows} rows")
                ids[group, row, :tokens] = example.input_ids
                mask[group, row, :tokens] = True
                tiles[group, used : used + count] = example.tiles
                visual = np.flatnonzero(example.input_ids == self._tokenizer.image_id)
                taps = example.visual_index.shape[1]
                index[group, row, visual, :taps] = anyres.shift_tiles(
                    example.visual_index, used, self._config.features_per_tile
                )
                weight[group, row, visual, :taps] = example.visual_weight
                used += count
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "tiles": tiles,
            "visual_index": index,
            "visual_weight": weight,
        }

    def _image_sizes(self, side: Side) -> list[tuple[int, int]]:
        return [self._size(source) if isinstance(source, Path) else images.image_size(source) for source in side.images]
