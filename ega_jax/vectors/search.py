"""The nearest vectors of a directory, by faiss: exact, in the precision that they are stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ega_jax.errors import BadInputError
from ega_jax.vectors.precision import encode_vectors

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64

    from ega_jax.vectors.directory import VectorDirectory


class Search:
    """An index over the vectors of a directory, in memory."""

    def __init__(self, directory: VectorDirectory) -> None:
        """Builds it.

        Raises:
          BadInputError: faiss is not installed, or vectors are missing or damaged.
        """
        try:
            import faiss
        except ModuleNotFoundError:
            raise BadInputError("searching needs faiss: pip install 'ega-jax[search]'") from None
        self._width = directory.description.width
        self._binary = directory.description.precision == "binary"
        self._index: Any
        if self._binary:
            self._index = faiss.IndexBinaryFlat(self._width)
            self._index.add(directory.read())
        else:
            self._index = faiss.IndexFlatIP(self._width)
            self._index.add(directory.vectors())

    def nearest(
        self, queries: Float32[np.ndarray, "q D"], k: int
    ) -> tuple[Float32[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
        """The k nearest of each query, best first.

        Args:
          queries: unit rows.
          k: how many; no more than there are vectors.

        Returns:
          Cosine similarities, and the vectors' places. Of binary vectors, queries are binary too, and a similarity is
          1 - 2 h / D with h the number of signs that differ.
        """
        k = min(k, self._index.ntotal)
        if self._binary:
            distances, places = self._index.search(encode_vectors(queries, "binary"), k)
            return (1 - 2 * distances / self._width).astype(np.float32), places
        return self._index.search(np.ascontiguousarray(queries, np.float32), k)
