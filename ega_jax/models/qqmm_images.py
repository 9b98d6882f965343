"""QQMM on the host: a picture of any size becomes a grid of patches.

The rules are those of QQMM-embed's processor and of its EmbedBot, which enlarges small pictures first, bit for bit; see
`QqmmImageConfig` for where they are mended. Numpy and PIL alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ega_jax.errors import BadInputError
from ega_jax.models.backbone import Size
from ega_jax.models.patch_layout import Grid, PatchLayout

if TYPE_CHECKING:
    from jaxtyping import UInt8

_MOST_ENLARGED_PIXELS = 2**26


@dataclasses.dataclass(frozen=True)
class QqmmImageConfig:
    """How pictures become patches. The defaults are those that the published embedder is evaluated with.

    Where the reference misbehaves: a picture so long that scaling would leave no patch across keeps one block; one that
    would be enlarged beyond 2^26 pixels, only to be shrunk again, is resized at once; and a picture one or three pixels
    wide or high is not mistaken for one with its channels first.

    Attributes:
      patch_size: side of a patch, pixels.
      merge_size: patches along a side of the block that becomes one visual token.
      enlarge_to: EmbedBot's first step: a shorter side is enlarged to as many pixels; None leaves small pictures small.
      shortest_edge, longest_edge: limits of a side, pixels.
      max_patches: of a picture.
      max_row_patches: of all pictures of a row; where they have more, those of more than `min_resized_patches` shrink.
      min_resized_patches: what shrinking leaves of a picture, if it had as many.
      mean, std: normalisation of pixel values in [0, 1], per colour: CLIP's.
    """

    patch_size: int = 14
    merge_size: int = 2
    enlarge_to: int | None = 448
    shortest_edge: int = 28
    longest_edge: int = 1512
    max_patches: int = 8192
    max_row_patches: int = 10240
    min_resized_patches: int = 1024
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        if self.merge_size != 2:
            raise BadInputError(f"merge_size={self.merge_size} is not supported; only 2 is")
        for name in ("patch_size", "shortest_edge", "longest_edge"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name}={getattr(self, name)} must be positive")
        for name in ("max_patches", "max_row_patches"):
            if getattr(self, name) < self.block_patches:
                raise BadInputError(f"{name}={getattr(self, name)} must be a block's {self.block_patches} at least")

    @property
    def block_size(self) -> int:
        """Side of the square that one visual token stands for, pixels."""
        return self.patch_size * self.merge_size

    @property
    def block_patches(self) -> int:
        """Patches of a block."""
        return self.merge_size**2

    @property
    def max_pixels(self) -> int:
        """Of a picture after resizing."""
        return self.max_patches * self.patch_size**2

    def with_max_pixels(self, max_pixels: int) -> QqmmImageConfig:
        """The same rules with at most so many pixels a picture, if they allow more."""
        return dataclasses.replace(self, max_patches=min(self.max_patches, max_pixels // self.patch_size**2))


class QqmmLayout(PatchLayout):
    """Each picture's tokens are the image row and its blocks."""

    def __init__(self, config: QqmmImageConfig) -> None:
        super().__init__(patch_size=config.patch_size, merge_size=config.merge_size, lead=1)
        self._config = config

    def grids(self, sizes: Sequence[Size]) -> list[Grid]:
        return row_grids([enlarged(size, self._config)[-1] for size in sizes], self._config)

    def resize(self, picture: Image.Image, size: Size) -> UInt8[np.ndarray, "H W 3"]:
        """Resizes as EmbedBot and then the processor do; transparency is dropped."""
        picture = picture.convert("RGB")
        for height, width in [*enlarged((picture.height, picture.width), self._config)[1:], size]:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(picture)


def enlarged(size: Size, config: QqmmImageConfig) -> list[Size]:
    """The sizes (height, width) that EmbedBot gives a picture one after the other, its own first."""
    sizes = [size]
    if config.enlarge_to is None:
        return sizes
    if min(size) < config.enlarge_to:
        ratio = config.enlarge_to / min(size)
        sizes.append(_with_side(size, min(size), config.enlarge_to, int(ratio * max(size))))
    if max(sizes[-1]) > config.longest_edge:
        last = sizes[-1]
        ratio = config.longest_edge * min(last) / max(last)
        smaller = _with_side(last, max(last), config.longest_edge, max(1, int(ratio)))
        huge = math.prod(last) > _MOST_ENLARGED_PIXELS
        sizes = [size, smaller] if huge else [*sizes, smaller]
    return sizes


def row_grids(sizes: Sequence[Size], config: QqmmImageConfig) -> list[Grid]:
    """(rows, columns) in blocks of each picture of one row, from their sizes (height, width) in pixels."""
    grids = [_grid(size, config) for size in sizes]
    total, most = sum(rows * columns for rows, columns in grids), config.max_row_patches // config.block_patches
    if total <= most:
        return grids
    return [_shrunk(grid, most / total, config.min_resized_patches // config.block_patches) for grid in grids]


def _grid(size: Size, config: QqmmImageConfig) -> Grid:
    """The grid of one picture, in blocks. Sides are rounded half to even, as Python does."""
    height, width = size
    longest, block = config.longest_edge, config.block_size
    if width >= height and width > longest:
        height, width = int(longest * height / width), longest
    elif height > width and height > longest:
        height, width = longest, int(longest * width / height)
    height, width = max(height, config.shortest_edge), max(width, config.shortest_edge)
    rows, columns = max(1, round(height / block)), max(1, round(width / block))
    most = config.max_patches // config.block_patches
    if rows * columns <= most:
        return rows, columns
    rows, columns = int(math.sqrt(most * height / width)), int(math.sqrt(most * width / height))
    if rows == 0:
        return 1, most
    return (most, 1) if columns == 0 else (rows, columns)


def _shrunk(grid: Grid, ratio: float, smallest: int) -> Grid:
    """A grid of about `ratio` times as many blocks, but not of fewer than `smallest` where it had more."""
    rows, columns = grid
    blocks = rows * columns
    if blocks * ratio <= smallest:
        if blocks <= smallest:
            return grid
        ratio = smallest / blocks
    scale = math.sqrt(ratio)
    return max(1, int(rows * scale)), max(1, int(columns * scale))


def _with_side(size: Size, side: int, new: int, other: int) -> Size:
    """(new, other) or (other, new): `new` for the side of `size` that is `side`, the width if both are."""
    return (other, new) if size[1] == side else (new, other)
