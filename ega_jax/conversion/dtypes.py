"""The dtype that weights are stored in: what the files say, and how tensors are cast on their way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from ega_jax.errors import BadInputError
from ega_jax.models.safetensors_files import DTYPES, Source

DtypeName = Literal["float32", "bfloat16", "float16"]

_BY_NAME = {dtype.name: dtype for dtype in DTYPES.values()}


def cast(source: Source, name: DtypeName) -> Source:
    """The same tensor in another dtype, rounded to nearest even.

    Raises:
      BadInputError: when its values are asked for, one that float16 cannot hold.
    """
    dtype = _BY_NAME[name]

    def pieces() -> Iterable[np.ndarray]:
        for piece in source.pieces():
            with np.errstate(over="ignore"):  # told below
                rounded = piece.astype(dtype)
            if name == "float16" and not np.array_equal(np.isfinite(rounded), np.isfinite(piece)):
                raise BadInputError(f"{source.name} holds values beyond float16's largest, 65504; choose bfloat16")
            yield rounded

    return source if dtype == source.dtype else Source(source.name, dtype, source.shape, pieces)


def dtype_told(config: Mapping[str, Any], sources: Iterable[Source]) -> dict[str, Any]:
    """A published config that tells the dtype which most weights have, as transformers reads it.

    transformers 4 looks for `torch_dtype`, 5 for `dtype` and for either. Inner configs that tell one are changed too.
    """
    sizes: dict[str, int] = {}
    for source in sources:
        sizes[source.dtype.name] = sizes.get(source.dtype.name, 0) + source.nbytes
    name = max(sizes, key=lambda name: sizes[name])

    def changed(part: Mapping[str, Any], outermost: bool) -> dict[str, Any]:
        told = {key: changed(value, False) if isinstance(value, Mapping) else value for key, value in part.items()}
        keys = [key for key in ("dtype", "torch_dtype") if part.get(key) is not None]
        return told | dict.fromkeys(keys or (["torch_dtype"] if outermost else []), name)

    return changed(config, True)
