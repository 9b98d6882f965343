"""The host side of LLaVA-OneVision's vision: pictures to tile slots and to the tables of the visual tokens' sources."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ega_jax.models import anyres
from ega_jax.models.backbone import ImageCost, Placed

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from PIL import Image


class RowTiles(NamedTuple):
    """The decoded pictures of one row.

    Attributes:
      tiles: (S, H, W, 3).
      sources: which features each visual token draws on, tiles numbered within the row.
    """

    tiles: UInt8[np.ndarray, "S H W 3"]
    sources: anyres.TokenSources

    @property
    def tokens_per_image(self) -> tuple[int, ...]:
        return self.sources.tokens_per_image

    @property
    def units(self) -> int:
        return len(self.tiles)


class AnyresLayout:
    """Gives the inputs `tiles`, `visual_index` and `visual_weight`; `LlavaOnevision` describes them."""

    unit = "image tiles"
    buckets = (0, 1, 2, 3, 5, 7, 10)

    def __init__(self, config: anyres.AnyresConfig) -> None:
        self._config = config
        # Most pictures of a data set share a few sizes, and laying out their tokens costs as much as decoding them.
        self._sources = functools.lru_cache(maxsize=256)(functools.partial(anyres.token_sources, config=config))
        largest = max(math.prod(resolution) for resolution in config.resolutions) / config.tile_size**2
        # Four taps only where a picture can have so many features that they are resized; one gather is cheaper.
        self._taps = 4 if largest / config.max_patches > 1.1**2 and not config.base_only else 1

    def measure(self, sizes: Sequence[anyres.Size]) -> ImageCost:
        plans = anyres.plan_row(sizes, self._config)
        return ImageCost(sum(plan.tokens for plan in plans), sum(plan.tiles for plan in plans))

    def prepare(self, pictures: Sequence[Image.Image]) -> RowTiles:
        sources = self._sources(tuple((picture.height, picture.width) for picture in pictures))
        return RowTiles(anyres.tiles(pictures, self._config), sources)

    def collate(
        self, placed: Sequence[Placed], *, groups: int, rows: int, length: int, units: int
    ) -> dict[str, np.ndarray]:
        size = self._config.tile_size
        tiles = np.zeros((groups, units, size, size, 3), np.uint8)
        index = np.zeros((groups, rows, length, self._taps), np.int32)
        weight = np.zeros((groups, rows, length, self._taps), np.float32)
        for group, row, tokens, first, images in placed:
            tiles[group, first : first + images.units] = images.tiles
            taps = images.sources.index.shape[1]
            index[group, row, tokens, :taps] = anyres.shift_tiles(
                images.sources.index, first, self._config.features_per_tile
            )
            weight[group, row, tokens, :taps] = images.sources.weight
        return {"tiles": tiles, "visual_index": index, "visual_weight": weight}
