"""Qwen2-VL on the host: a picture of any size becomes a grid of patches, and tokens get their positions in three axes.

The rules are those of Qwen2-VL (arXiv 2409.12191) as transformers 5.23 carries them out, bit for bit. Numpy and PIL
alone; nothing here touches a device.

A picture keeps its own resolution, rounded to whole blocks and held between `min_pixels` and `max_pixels`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ega_jax.errors import BadInputError
from ega_jax.models.anyres import to_rgb
from ega_jax.models.backbone import Placed, Size
from ega_jax.models.patch_layout import Grid, PatchLayout

if TYPE_CHECKING:
    from jaxtyping import Int32, UInt8

MAX_ASPECT_RATIO = 200


@dataclasses.dataclass(frozen=True)
class Qwen2VlImageConfig:
    """How pictures become patches.

    Attributes:
      patch_size: side of a patch, pixels.
      merge_size: patches along a side of the block that becomes one visual token.
      min_pixels, max_pixels: the area that a picture is resized into, where its shape allows it.
      mean, std: normalisation of pixel values in [0, 1], per colour; the defaults are CLIP's.
    """

    patch_size: int = 14
    merge_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 16384 * 28 * 28
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        if min(self.patch_size, self.merge_size) < 1:
            raise BadInputError(f"patch_size={self.patch_size} and merge_size={self.merge_size} must be positive")
        if not self.block_size**2 <= self.max_pixels or not 0 < self.min_pixels <= self.max_pixels:
            raise BadInputError(
                f"min_pixels={self.min_pixels}, max_pixels={self.max_pixels}: need 0 < min_pixels <= max_pixels, and "
                f"max_pixels of at least one token, {self.block_size**2}"
            )

    @property
    def block_size(self) -> int:
        """Side of the square that one visual token stands for, pixels."""
        return self.patch_size * self.merge_size

    def with_max_pixels(self, max_pixels: int) -> Qwen2VlImageConfig:
        """The same rules with at most so many pixels a picture, if they allow more."""
        most = min(self.max_pixels, max_pixels)
        return dataclasses.replace(self, max_pixels=most, min_pixels=min(self.min_pixels, most))


class Qwen2VlLayout(PatchLayout):
    """Adds the input `positions`, in three axes."""

    def __init__(self, config: Qwen2VlImageConfig) -> None:
        super().__init__(patch_size=config.patch_size, merge_size=config.merge_size)
        self._config = config

    def grids(self, sizes: Sequence[Size]) -> list[Grid]:
        return [token_grid(size, self._config) for size in sizes]

    def resize(self, picture: Image.Image, size: Size) -> UInt8[np.ndarray, "H W 3"]:
        height, width = size
        return np.asarray(to_rgb(picture).resize((width, height), Image.Resampling.BICUBIC))

    def collate(
        self, placed: Sequence[Placed], *, groups: int, rows: int, length: int, units: int
    ) -> dict[str, np.ndarray]:
        positions = np.empty((groups, rows, length, 3), np.int32)
        positions[...] = np.arange(length)[:, None]
        for group, row, tokens, _, images in placed:
            positions[group, row] = mrope_positions(length, tokens, images.grids)
        pictures = super().collate(placed, groups=groups, rows=rows, length=length, units=units)
        return {**pictures, "positions": positions}


@functools.lru_cache(maxsize=65536)
def token_grid(size: Size, config: Qwen2VlImageConfig) -> Grid:
    """(rows, columns) of the visual tokens of a picture of `size` (height, width) pixels.

    Sides are rounded half to even, as Python does. A picture of less than half a block a side is enlarged until its
    area is `min_pixels`; one so long that its short side is a single block may keep more than `max_pixels`.

    Raises:
      BadInputError: one side is more than 200 times the other.
    """
    height, width = size
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise BadInputError(
            f"a picture of {width} x {height} pixels: one side is more than {MAX_ASPECT_RATIO} times the other, which "
            "Qwen2-VL has no rule for; crop it or leave it out"
        )
    block = config.block_size
    rows, columns = round(height / block), round(width / block)
    if rows * columns * block**2 > config.max_pixels:
        shrink = math.sqrt((height * width) / config.max_pixels)
        return max(1, math.floor(height / shrink / block)), max(1, math.floor(width / shrink / block))
    if rows * columns * block**2 < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (height * width))
        return math.ceil(height * grow / block), math.ceil(width * grow / block)
    return rows, columns


def mrope_positions(
    length: int, visual: Int32[np.ndarray, " V"], grids: Sequence[Grid]
) -> Int32[np.ndarray, "length 3"]:
    """Positions in (time, height, width) of a row's tokens (M-RoPE, section 2.1 of the paper).

    A text token has one position in all three; those of a picture start where the text before it ends and count its
    rows and columns; the text after it goes on from the largest of them.

    Args:
      length: tokens of the row.
      visual: where in it the visual tokens stand.
      grids: (rows, columns) in tokens of each picture, in reading order.
    """
    positions = np.repeat(np.arange(length, dtype=np.int32)[:, None], 3, axis=1)
    seen = 0
    for rows, columns in grids:
        count = rows * columns
        start, end = visual[seen], visual[seen] + count
        positions[start:end] = positions[start] + np.indices((1, rows, columns), np.int32).reshape(3, count).T
        positions[end:] += max(rows, columns) - count
        seen += count
    return positions
