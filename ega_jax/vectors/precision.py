"""Unit vectors in fewer bytes.

| precision | bytes a vector | what is kept |
|---|---|---|
| float32 | 4 D | all |
| float16 | 2 D | 3 digits of each entry |
| int8 | D | each vector divided by its largest entry and multiplied by 127: its direction, to about 1 % |
| binary | D / 8 | the signs, eight a byte, the first in the highest bit |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Shaped

Precision = Literal["float32", "float16", "int8", "binary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def encode_vectors(vectors: Float32[np.ndarray, "n D"], precision: Precision) -> Shaped[np.ndarray, "n B"]:
    """Unit rows as they are stored.

    Args:
      vectors: float32, of a D that 8 divides where they become binary.
      precision: how.

    Returns:
      float32, float16 or int8 of the same shape, or uint8 of D / 8 columns.
    """
    if precision == "binary":
        if vectors.shape[1] % 8:
            raise ValueError(f"binary vectors need a width that 8 divides, got {vectors.shape[1]}")
        return np.packbits(vectors > 0, axis=1)
    if precision == "int8":
        largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.float32(1e-7))
        return np.rint(vectors * (127 / largest)).astype(np.int8)
    return vectors.astype(precision)


def decode_vectors(stored: Shaped[np.ndarray, "n B"], precision: Precision) -> Float32[np.ndarray, "n D"]:
    """The unit rows that stored ones stand for; of binary ones each entry is ± 1 / √D."""
    if precision == "binary":
        vectors = np.unpackbits(stored, axis=1).astype(np.float32) * 2 - 1
    else:
        vectors = stored.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-7))
