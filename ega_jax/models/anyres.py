"""AnyRes on the host: a picture of any size becomes uint8 tiles and a table of which feature each token is.

The rules are those of LLaVA-OneVision (arXiv 2408.03326) as transformers 5 carries them out, bit for bit.
Numpy and PIL alone; nothing here touches a device.

A picture alone in its row gives a base tile (the whole picture, squeezed) and the tiles of the best of a list
of resolutions. Each tile becomes grid_size x grid_size features. Its tokens are the base tile's features,
then the features of the picture put together again without padding, each of whose rows ends in a newline; a
picture with too many features is first resized bilinearly. Of several pictures in a row each gives one tile,
padded to a square, and a newline.

All of that is a linear map with at most four non-zero weights a token, so the device needs two small tables
(V tokens, K in {1, 4} taps): `index` into the row's feature table [newline, tile 0's features row-major, tile
1's, ...] and `weight`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

Size = tuple[int, int]
"""(height, width), in pixels or in features as stated."""


@dataclasses.dataclass(frozen=True)
class AnyresConfig:
    """How pictures become tiles.

    Attributes:
      tile_size: side of a tile, pixels.
      grid_size: features along a side of a tile.
      pinpoints: the resolutions to choose from, (height, width) in pixels, multiples of `tile_size`.
      max_patches: the N of `anyres_max_N`: above about N tiles' worth of features, a picture's features are resized.
      mean, std: normalisation of pixel values in [0, 1], per colour.
      base_only: the base tile alone and a newline: the cheap resolution.
      max_tiles: leave out resolutions of more tiles than this (the base tile not counted).
    """

    tile_size: int
    grid_size: int
    pinpoints: tuple[Size, ...]
    max_patches: int = 9
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    base_only: bool = False
    max_tiles: int | None = None

    def __post_init__(self) -> None:
        for height, width in self.pinpoints:
            if height <= 0 or width <= 0 or height % self.tile_size or width % self.tile_size:
                raise BadInputError(
                    f"image_grid_pinpoints: ({height}, {width}) is not a multiple of the tile size {self.tile_size}"
                )
        if not self.resolutions:
            raise BadInputError(
                f"max_tiles={self.max_tiles} leaves none of {len(self.pinpoints)} image_grid_pinpoints: raise it, "
                "or set base_only"
            )

    @functools.cached_property
    def resolutions(self) -> tuple[Size, ...]:
        """The pinpoints that `max_tiles` leaves."""
        area = self.tile_size**2
        return tuple(p for p in self.pinpoints if self.max_tiles is None or p[0] * p[1] // area <= self.max_tiles)

    @property
    def features_per_tile(self) -> int:
        """Rows of the feature table that a tile takes."""
        return self.grid_size**2


class ImagePlan(NamedTuple):
    """What a picture of a given size becomes.

    Attributes:
      resolution: (height, width) in pixels of the tiles beside the base; None if there is only the base tile.
      crop: (top, bottom, left, right) in features: what unpadding keeps of the tiles' features.
      pooled: (rows, columns) of the features that remain, newlines not counted; (0, 0) with only the base tile.
      tiles: number of tiles, the base included.
      tokens: number of visual tokens, newlines included.
    """

    resolution: Size | None
    crop: tuple[int, int, int, int]
    pooled: Size
    tiles: int
    tokens: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TokenSources:
    """Which features a row's visual tokens draw on; see the module's docstring.

    Attributes:
      index: (V, K) rows of the row's own feature table; 0 is the newline, 1 + s P + p is feature p of tile s.
      weight: (V, K) their weights; 0 for a tap that is not used.
      tokens_per_image: visual tokens of each picture, in order; they sum to V.
      num_tiles: tiles of the row.
    """

    index: Int32[np.ndarray, "V K"]
    weight: Float32[np.ndarray, "V K"]
    tokens_per_image: tuple[int, ...]
    num_tiles: int


def tiles(images: Sequence[Image.Image], config: AnyresConfig) -> UInt8[np.ndarray, "N H W 3"]:
    """The uint8 tiles of one row's pictures, in the order that `token_sources` counts them."""
    size = config.tile_size
    crops: list[np.ndarray] = []
    for picture in map(to_rgb, images):
        if len(images) != 1:
            crops.append(_resize(_pad_to_square(picture, config.mean), (size, size)))
            continue
        crops.append(_resize(picture, (size, size)))
        plan = plan_image((picture.height, picture.width), config)
        if plan.resolution is not None:
            canvas = _resize_and_pad(picture, plan.resolution)
            across, down = plan.resolution[1] // size, plan.resolution[0] // size
            crops.extend(canvas.reshape(down, size, across, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3))
    return np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8)


def plan_row(sizes: Sequence[Size], config: AnyresConfig) -> list[ImagePlan]:
    """The plan of each picture of one row, from sizes (height, width) alone: counting costs no decoding."""
    return [plan_image(size, config, alone=len(sizes) == 1) for size in sizes]


def token_sources(sizes: Sequence[Size], config: AnyresConfig) -> TokenSources:
    """Index and weight tables of one row's visual tokens.

    Args:
      sizes: (height, width) of the row's pictures, in reading order.
      config: how they become tiles.

    Returns:
      Tables with K = 4 where a picture's features are resized, otherwise K = 1; tiles are numbered within the
      row (`shift_tiles` moves them to their place in a batch).
    """
    plans = plan_row(sizes, config)
    tables, first_tile = [], 0
    for plan in plans:
        tables.append(_image_sources(plan, config, first_tile))
        first_tile += plan.tiles
    index, weight = _concatenate(tables)
    return TokenSources(index, weight, tuple(plan.tokens for plan in plans), first_tile)


def video_token_sources(num_frames: int, config: AnyresConfig) -> TokenSources:
    """Tables of a video: a tile a frame, its features halved bilinearly (rounding up), one newline at the very end."""
    side = math.ceil(config.grid_size / 2)
    grid = np.arange(config.features_per_tile).reshape(config.grid_size, config.grid_size)
    frames = [_bilinear(1 + t * config.features_per_tile + grid, (side, side)) for t in range(num_frames)]
    flat = [(index.reshape(-1, 4), weight.reshape(-1, 4)) for index, weight in frames]
    index, weight = _concatenate([*flat, _newline()])
    return TokenSources(index, weight, (len(index),), num_frames)


def shift_tiles(index: Int32[np.ndarray, "V K"], tiles: int, features_per_tile: int) -> Int32[np.ndarray, "V K"]:
    """Renumbers a row's index table for a batch in which `tiles` tiles stand before the row's own."""
    return np.where(index > 0, index + tiles * features_per_tile, index)


# ---------------------------------------------------------------------------------------------- sizes


@functools.lru_cache(maxsize=65536)
def plan_image(size: Size, config: AnyresConfig, *, alone: bool = True) -> ImagePlan:
    """The plan of a picture of `size` (height, width), alone in its row or not."""
    per_tile = config.features_per_tile
    if not alone or config.base_only:
        return ImagePlan(None, (0, 0, 0, 0), (0, 0), 1, per_tile + 1)
    resolution = select_best_resolution(size, config.resolutions)
    down, across = resolution[0] // config.tile_size, resolution[1] // config.tile_size
    crop = _unpadded(size, (down * config.grid_size, across * config.grid_size))
    rows, columns = crop[1] - crop[0], crop[3] - crop[2]
    ratio = math.sqrt(rows * columns / (config.max_patches * per_tile))
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return ImagePlan(resolution, crop, (rows, columns), 1 + down * across, per_tile + rows * (columns + 1))


def select_best_resolution(size: Size, resolutions: Sequence[Size]) -> Size:
    """The resolution that keeps most of a picture's pixels and, among equals, wastes least."""
    height, width = size
    best, best_effective, best_waste = resolutions[0], 0, math.inf
    for target_height, target_width in resolutions:
        scale = min(target_width / width, target_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        waste = target_height * target_width - effective
        if effective > best_effective or (effective == best_effective and waste < best_waste):
            best, best_effective, best_waste = (target_height, target_width), effective, waste
    return best


def _unpadded(size: Size, grid: Size) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the picture within a grid of features, without tiling's padding."""
    (height, width), (rows, columns) = size, grid
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        padding = (rows - kept) // 2
        return padding, rows - padding, 0, columns
    kept = int(round(width * (rows / height), 7))
    padding = (columns - kept) // 2
    return 0, rows, padding, columns - padding


# ---------------------------------------------------------------------------------------------- token tables


def _image_sources(plan: ImagePlan, config: AnyresConfig, first_tile: int) -> tuple[np.ndarray, np.ndarray]:
    grid, per_tile = config.grid_size, config.features_per_tile
    first = 1 + first_tile * per_tile
    base = _gather(np.arange(first, first + per_tile))
    if plan.resolution is None:
        return _concatenate([base, _newline()])
    down, across = plan.resolution[0] // config.tile_size, plan.resolution[1] // config.tile_size
    # Tiles side by side again: (tile row, tile column, row, column) -> (tile row, row, tile column, column).
    tiles = first + per_tile + np.arange(down * across * per_tile).reshape(down, across, grid, grid)
    top, bottom, left, right = plan.crop
    features = tiles.swapaxes(1, 2).reshape(down * grid, across * grid)[top:bottom, left:right]
    if features.shape == plan.pooled:
        index = features[..., None]
        weight = np.ones(index.shape, np.float32)
    else:
        index, weight = _bilinear(features, plan.pooled)
    # A newline at the end of each row: feature 0, with weight 1 on the first tap.
    taps = index.shape[-1]
    index = np.pad(index, ((0, 0), (0, 1), (0, 0)))
    weight = np.pad(weight, ((0, 0), (0, 1), (0, 0)))
    weight[:, -1, 0] = 1
    return _concatenate([base, (index.reshape(-1, taps), weight.reshape(-1, taps))])


def _bilinear(features: np.ndarray, shape: Size) -> tuple[np.ndarray, np.ndarray]:
    """Taps (rows, columns, 4) and weights of resizing a grid of features to `shape`.

    Centres are half-pixel and nothing is averaged when shrinking: torch's interpolate(mode="bilinear",
    align_corners=False, antialias=False).
    """
    (rows, row_weights), (columns, column_weights) = (
        _linear_taps(old, new) for old, new in zip(features.shape, shape, strict=True)
    )
    index = features[rows[:, None, :, None], columns[None, :, None, :]]
    weight = row_weights[:, None, :, None] * column_weights[None, :, None, :]
    weight = weight.reshape(*shape, 4).astype(np.float32)
    return np.where(weight > 0, index.reshape(*shape, 4), 0), weight


def _linear_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Both neighbours (new, 2) of each new point on a line of `old` points, and their weights."""
    source = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    lower = np.minimum(source.astype(np.int64), old - 1)
    fraction = source - lower
    return np.stack([lower, np.minimum(lower + 1, old - 1)], 1), np.stack([1 - fraction, fraction], 1)


def _gather(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features[:, None], np.ones((len(features), 1), np.float32)


def _newline() -> tuple[np.ndarray, np.ndarray]:
    return _gather(np.zeros(1, np.int64))


def _concatenate(tables: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Joins tables of tokens; unused taps (index 0, weight 0) widen a table of one tap to four."""
    taps = max((index.shape[1] for index, _ in tables), default=1)
    widen = [[np.pad(part, ((0, 0), (0, taps - part.shape[1]))) for part in table] for table in tables]
    if not widen:
        return np.zeros((0, taps), np.int32), np.zeros((0, taps), np.float32)
    index, weight = (np.concatenate(parts) for parts in zip(*widen, strict=True))
    return index.astype(np.int32), weight


# ---------------------------------------------------------------------------------------------- pixels


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, with transparency composited on white (a palette's transparent colour too)."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _resize(picture: Image.Image, size: Size) -> UInt8[np.ndarray, "H W 3"]:
    height, width = size
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def _resize_and_pad(picture: Image.Image, resolution: Size) -> UInt8[np.ndarray, "H W 3"]:
    """Resizes keeping the aspect and centres on black; an odd pixel of padding goes right or below."""
    height, width = resolution
    scale_width, scale_height = width / picture.width, height / picture.height
    if scale_width < scale_height:
        new_height, new_width = min(math.ceil(picture.height * scale_width), height), width
    else:
        new_height, new_width = height, min(math.ceil(picture.width * scale_height), width)
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = _resize(picture, (new_height, new_width))
    return canvas


def _pad_to_square(picture: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """Centres on a square of the mean colour."""
    side = max(picture.size)
    red, green, blue = (int(255 * channel) for channel in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square
