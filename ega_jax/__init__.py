"""Multi-modal embedding models in JAX, trained with the EGA loss.

    from ega_jax import ega_loss
    loss = ega_loss(queries, targets, temperature=0.02)

Importing this package costs no more than importing jax; the rest of the library loads when it is first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ega_jax.embedder import Embedder as Embedder
    from ega_jax.losses import ega_loss as ega_loss
    from ega_jax.losses import info_nce_loss as info_nce_loss

__version__ = "0.1.0"

_HOME = {
    "Embedder": "ega_jax.embedder",
    "ega_loss": "ega_jax.losses",
    "info_nce_loss": "ega_jax.losses",
}
__all__ = ["Embedder", "ega_loss", "info_nce_loss"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ega_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
