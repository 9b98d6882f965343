"""Embeddings of a model against those that another implementation gave: a reference file in, differences out.

A reference is one safetensors file, so that it can be sent around whole (`docs/make_reference.py` makes one in torch):

    embeddings  (n, D) float32: a row an item, of any length
    image.K     (H, W, 3) uint8: picture K
    metadata    "ega_jax.reference": JSON, {"version": 1, "items": [{"text": "...", "images": [K, ...]}, ...]}
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from ega_jax.embedder import Embedder
from ega_jax.errors import BadInputError
from ega_jax.training.config import ModelSettings, TrainConfig
from ega_jax.training.setup import make_setup, starting_parameters

if TYPE_CHECKING:
    from jaxtyping import Float32

KEY, VERSION = "ega_jax.reference", 1

TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}
"""The largest difference of an entry of a unit vector that is taken for rounding, by compute dtype."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Items and their embeddings.

    Attributes:
      items: mappings as `Embedder.encode` takes them.
      embeddings: (n, D) unit rows.
    """

    items: list[dict[str, Any]]
    embeddings: Float32[np.ndarray, "n D"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How one item compares.

    Attributes:
      text: of the item.
      images: how many it has.
      cosine: of the two embeddings.
      largest: the largest difference of an entry.
    """

    text: str
    images: int
    cosine: float
    largest: float


def read_reference(path: Path) -> Reference:
    """Reads a reference file.

    Raises:
      BadInputError: it is none, or contradicts itself.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {})[KEY])
            if described["version"] != VERSION:
                raise BadInputError(f"{path}: version {described['version']}, but this reader knows {VERSION}")
            vectors = file.get_tensor("embeddings").astype(np.float32)
            pictures = {name: file.get_tensor(name) for name in file.keys() if name != "embeddings"}  # noqa: SIM118
            items = [
                {
                    "text": str(item["text"]),
                    "images": [Image.fromarray(pictures[f"image.{int(number)}"]) for number in item["images"]],
                }
                for item in described["items"]
            ]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{path}: not a reference file ({error!r}); docs/make_reference.py makes one") from error
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if vectors.shape[:1] != (len(items),) or not items or not np.isfinite(norms).all() or not norms.all():
        raise BadInputError(f"{path}: {len(items)} items, but embeddings {vectors.shape}, or ones without a direction")
    return Reference(items, vectors / norms)


def compare(
    model_dir: Path, reference: Reference, *, dtype: Literal["float32", "bfloat16"] = "float32", batch_size: int = 8
) -> list[Difference]:
    """Embeds the items of a reference, and tells how far from it each is.

    Raises:
      BadInputError: `model_dir` is no model directory, or its embeddings have another size.
    """
    config = TrainConfig(steps=1, model=ModelSettings(weights=model_dir, dtype=dtype))
    setup = make_setup(config, model_dir)
    embedder = Embedder.of(setup, starting_parameters(config, setup))
    vectors = embedder.encode(reference.items, batch_size=batch_size)
    if vectors.shape != reference.embeddings.shape:
        raise BadInputError(
            f"{model_dir} gives {vectors.shape[1]} dimensions, the reference has {reference.embeddings.shape[1]}: "
            "it is of another model"
        )
    return [
        Difference(item["text"], len(item["images"]), float(ours @ theirs), float(np.abs(ours - theirs).max()))
        for item, ours, theirs in zip(reference.items, vectors, reference.embeddings, strict=True)
    ]
