"""How a published tensor lies against our parameter: as it is, transposed, or a convolution as a matrix."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    Shape = tuple[int, ...]
    Index = tuple[slice, ...]


class Layout(Protocol):
    """The relation of one published tensor to one parameter (of one layer, if the parameter is stacked).

    Attributes:
      row_axis: the parameter's axis that is the published tensor's first, along which it is cheap to read in pieces;
        None where it is to be read whole.
    """

    row_axis: int | None

    def published_shape(self, shape: Shape) -> Shape:
        """The shape of the published tensor of a parameter of this shape."""

    def read(self, tensor: Any, index: Index) -> np.ndarray:
        """The part `index` of the parameter, from anything that is indexed like the published tensor; may be a view."""

    def write(self, value: np.ndarray) -> np.ndarray:
        """The published tensor of a whole parameter; may be a view."""


class AsIs:
    """Vectors and tables."""

    row_axis: int | None = 0

    def published_shape(self, shape: Shape) -> Shape:
        return shape

    def read(self, tensor: Any, index: Index) -> np.ndarray:
        return tensor[index]

    def write(self, value: np.ndarray) -> np.ndarray:
        return value


class Transposed:
    """A linear map: (in, out) here, (out, in) in torch."""

    row_axis: int | None = 1

    def published_shape(self, shape: Shape) -> Shape:
        return shape[::-1]

    def read(self, tensor: Any, index: Index) -> np.ndarray:
        return tensor[index[::-1]].T

    def write(self, value: np.ndarray) -> np.ndarray:
        return value.T


class PatchKernel:
    """A convolution over square RGB patches that do not overlap: (row * column * colour, out) here, (out, 3, row,
    column) in torch; over patches of several frames (frame * row * column * colour, out) and (out, 3, frame, row,
    column)."""

    row_axis: int | None = None

    def __init__(self, frames: int | None = None) -> None:
        self._frames = () if frames is None else (frames,)

    def published_shape(self, shape: Shape) -> Shape:
        side = math.isqrt(shape[0] // (3 * math.prod(self._frames)))
        return shape[1], 3, *self._frames, side, side

    def read(self, tensor: Any, index: Index) -> np.ndarray:
        kernel = np.moveaxis(tensor[:], (0, 1), (-1, -2))
        return kernel.reshape(-1, kernel.shape[-1])[index]

    def write(self, value: np.ndarray) -> np.ndarray:
        out, colours, *places = self.published_shape(value.shape)
        return np.moveaxis(value.reshape(*places, colours, out), (-1, -2), (0, 1))


AS_IS, TRANSPOSED, PATCH_KERNEL = AsIs(), Transposed(), PatchKernel()
