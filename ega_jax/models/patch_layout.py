"""The host side that backbones with packed patches share: pictures to patch slots, and which block a visual token is.

A picture's patches stand block by block: the merge_size x merge_size patches that become one visual token follow each
other, row by row, so that merging is a reshape on the device. Numpy alone.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ega_jax.models.backbone import ImageCost, Placed, Size

if TYPE_CHECKING:
    from jaxtyping import Int32, UInt8
    from PIL import Image

Grid = tuple[int, int]
"""(rows, columns), in visual tokens or in patches as stated."""


class RowPatches(NamedTuple):
    """The decoded pictures of one row.

    Attributes:
      patches: (P, pixels) of each picture, block by block, each patch flattened as (row, column, colour).
      grids: of each picture, in visual tokens.
      tokens_per_image: rows * columns of the grid, and the tokens that the backbone puts before them.
    """

    patches: list[UInt8[np.ndarray, "P pixels"]]
    grids: list[Grid]
    tokens_per_image: tuple[int, ...]

    @property
    def units(self) -> int:
        return sum(map(len, self.patches))


class PatchLayout(abc.ABC):
    """Gives the inputs `patches`, `patch_segments`, `patch_positions` and `visual_index`.

    Attributes:
      patch_size: side of a patch, pixels.
      merge_size: patches along a side of a block.
      lead: rows of the feature table before the blocks'; each picture's tokens begin with these rows.
    """

    unit = "image patches"
    # Steps of at most 1.5 times, so that at most a third of a bucket is padding; the top holds a whole row of QQMM.
    buckets = (0, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 5120, 6144, 8192, 10240, 12288)

    def __init__(self, *, patch_size: int, merge_size: int, lead: int = 0) -> None:
        self.patch_size, self.merge_size, self.lead = patch_size, merge_size, lead

    @abc.abstractmethod
    def grids(self, sizes: Sequence[Size]) -> list[Grid]:
        """The grid of each picture of one row, in visual tokens, from their sizes (height, width) in pixels."""

    @abc.abstractmethod
    def resize(self, picture: Image.Image, size: Size) -> UInt8[np.ndarray, "H W 3"]:
        """RGB pixels of a picture at (height, width) pixels."""

    def measure(self, sizes: Sequence[Size]) -> ImageCost:
        blocks = [rows * columns for rows, columns in self.grids(sizes)]
        return ImageCost(sum(blocks) + self.lead * len(blocks), sum(blocks) * self.merge_size**2)

    def prepare(self, pictures: Sequence[Image.Image]) -> RowPatches:
        grids = self.grids([(picture.height, picture.width) for picture in pictures])
        block = self.patch_size * self.merge_size
        cut = functools.partial(cut_patches, patch_size=self.patch_size, merge_size=self.merge_size)
        patches = [
            cut(self.resize(picture, (rows * block, columns * block)))
            for picture, (rows, columns) in zip(pictures, grids, strict=True)
        ]
        return RowPatches(patches, grids, tuple(self.lead + rows * columns for rows, columns in grids))

    def collate(
        self, placed: Sequence[Placed], *, groups: int, rows: int, length: int, units: int
    ) -> dict[str, np.ndarray]:
        area = self.merge_size**2
        units += -units % area  # whole blocks
        patches = np.zeros((groups, units, 3 * self.patch_size**2), np.uint8)
        segments = np.zeros((groups, units), np.int32)
        positions = np.zeros((groups, units, 2), np.int32)
        index = np.zeros((groups, rows, length, 1), np.int32)
        for group, row, tokens, first, images in placed:
            index[group, row, tokens, 0] = block_index(images.grids, lead=self.lead, first=first // area)
            for cut, grid in zip(images.patches, images.grids, strict=True):
                slots = slice(first, first + len(cut))
                patches[group, slots] = cut
                segments[group, slots] = 1 + first  # no two pictures of a group begin at one slot
                positions[group, slots] = patch_positions(grid, self.merge_size)
                first += len(cut)
        return {
            "patches": patches,
            "patch_segments": segments,
            "patch_positions": positions,
            "visual_index": index,
        }


def cut_patches(
    pixels: UInt8[np.ndarray, "H W 3"], *, patch_size: int, merge_size: int
) -> UInt8[np.ndarray, "P pixels"]:
    """The patches of a picture of whole blocks, block by block, each flattened as (row, column, colour)."""
    block = patch_size * merge_size
    down, across = pixels.shape[0] // block, pixels.shape[1] // block
    blocks = pixels.reshape(down, merge_size, patch_size, across, merge_size, patch_size, 3)
    return blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(-1, 3 * patch_size**2)


@functools.lru_cache(maxsize=256)
def patch_positions(grid: Grid, merge_size: int) -> Int32[np.ndarray, "P 2"]:
    """(row, column) of each patch of a picture of `grid` tokens, in the order of `cut_patches`."""
    down, across = grid
    row, column = np.indices((down * merge_size, across * merge_size), np.int32)
    places = np.stack([row, column], -1).reshape(down, merge_size, across, merge_size, 2)
    return places.swapaxes(1, 2).reshape(-1, 2)


def block_index(grids: Sequence[Grid], *, lead: int, first: int) -> Int32[np.ndarray, " V"]:
    """Rows of the feature table [lead rows, block 0, block 1, ...] of a row's visual tokens, in order.

    Args:
      grids: of its pictures.
      lead: rows before the blocks; each picture's tokens begin with them.
      first: blocks that stand before the row's own.
    """
    parts: list[np.ndarray] = []
    for rows, columns in grids:
        parts += [np.arange(lead), lead + first + np.arange(rows * columns)]
        first += rows * columns
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)
