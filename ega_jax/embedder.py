"""A model in use: texts and images in, unit vectors out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ega_jax import __version__
from ega_jax.data.buckets import Bucket, Buckets
from ega_jax.data.images import ImageError
from ega_jax.data.processor import Processor
from ega_jax.data.records import Side, described, side_of
from ega_jax.errors import BadInputError, NonFiniteEmbeddingError
from ega_jax.models.fingerprint import weights_fingerprint
from ega_jax.models.functional import embed_groups
from ega_jax.models.recipe import Recipe
from ega_jax.training.checkpoint import Checkpoints
from ega_jax.training.config import MeshSettings, ModelSettings, TrainConfig, from_json
from ega_jax.training.setup import MODEL, Setup, make_setup, starting_parameters
from ega_jax.training.sharding import BATCH, batch_devices, batch_sharding, local_groups, replicated
from ega_jax.training.state import restore_parameters

if TYPE_CHECKING:
    from jaxtyping import Array, Float32
    from PIL.Image import Image

    from ega_jax.models.embedding_model import EmbeddingModel
    from ega_jax.models.functional import Functional, Parameters


@dataclasses.dataclass(frozen=True)
class Embedder:
    """Encodes sides with fixed weights, on all devices of a mesh.

    Attributes:
      embed: (parameters, grouped inputs) -> (G, R, D), jitted; shared by embedders of one model, so that new weights
        compile nothing anew.
      parameters: the weights.
      processor: the backbone's host side.
      buckets: the shapes that may be compiled.
      width: D, of the vectors.
      recipe: how they are made; `matryoshka_dimensions` are the widths that the model was trained to be cut to.
      how: what decides vectors besides the weights, by name; part of `facts`.
      devices: groups a batch is cut into, one a device.
      groups: those of them that this process's devices hold, whose items it prepares; None is all.
      place: lays host arrays with a leading group axis on the devices.
    """

    embed: Callable[[Parameters, Any], Array]
    parameters: Parameters
    processor: Processor
    buckets: Buckets
    width: int
    recipe: Recipe
    how: Mapping[str, str] = dataclasses.field(default_factory=dict)
    devices: int = 1
    groups: Sequence[int] | None = None
    place: Callable[[Any], Any] = jax.device_put

    @classmethod
    def from_pretrained(cls, directory: Path | str, *, untrained: bool = False) -> Embedder:
        """Loads a run directory (its best checkpoint) or a model directory (config.json, tokenizer.json,
        *.safetensors).

        Args:
          directory: of the run or model.
          untrained: of a run, take the weights that it began with instead.

        Raises:
          BadInputError: it is neither, or a file of it is missing or damaged.
        """
        directory = Path(directory)
        if not (directory / MODEL).is_dir():
            config = TrainConfig(steps=1, model=ModelSettings(weights=directory))
            setup = make_setup(config, directory)
            return cls.of(setup, starting_parameters(config, setup))
        config = dataclasses.replace(from_json(directory / "config.json"), mesh=MeshSettings())
        setup = make_setup(config, directory / MODEL)
        if untrained:
            return cls.of(setup, starting_parameters(config, setup))
        with Checkpoints(directory / "checkpoints", config.checkpoint, reading=True) as checkpoints:
            return cls.of(setup, restore_parameters(config, setup, checkpoints))

    @classmethod
    def of(cls, setup: Setup, parameters: Parameters) -> Embedder:
        """The model of a setup with these weights."""
        sharding = batch_sharding(setup.mesh)

        def place(x: np.ndarray) -> Array:
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        model, devices = setup.functional.merge(parameters), batch_devices(setup.mesh)
        return cls(
            embed_program(setup.functional, setup.mesh),
            parameters,
            setup.processor,
            setup.buckets,
            model.config.text.hidden_size,
            setup.recipe,
            {
                "package": __version__,
                "model": repr(model.config),
                "arithmetic": f"{model.compute.dtype}, {model.compute.attention} attention, {jax.default_backend()}",
                "processor": setup.processor.fingerprint,
                "longest row": str(setup.buckets.tokens[-1]),
                # The widths trained to be cut to change no whole vector.
                "recipe": repr(dataclasses.replace(setup.recipe, matryoshka_dimensions=())),
            },
            devices,
            local_groups(setup.mesh, devices),
            functools.partial(jax.tree.map, place),
        )

    def with_parameters(self, parameters: Parameters) -> Embedder:
        """The same model with other weights."""
        return dataclasses.replace(self, parameters=parameters)

    @functools.cached_property
    def facts(self) -> Mapping[str, str]:
        """All that decides the vector of an item, by name: equal facts, equal vectors (but for the last bits, which
        depend on the shapes of batches). What a `VectorCache` keeps vectors by."""
        return {"weights": weights_fingerprint(self.parameters), **self.how}

    def encode(
        self,
        items: Sequence[Side | Mapping[str, Any]],
        *,
        batch_size: int = 32,
        dimensions: int | None = None,
        progress: Callable[[int], None] = lambda items: None,
    ) -> Float32[np.ndarray, "n D"]:
        """Embeds items.

        Args:
          items: sides, or mappings with "text" and "images" (paths or PIL images; "image": x is short for "images":
            [x]); images come before the text.
          batch_size: items encoded at once.
          dimensions: cut vectors to their first so many entries, and normalise again; None keeps all. Only a model that
            was trained for it (`recipe.matryoshka_dimensions`) keeps its quality.
          progress: called with the number of items done since the last call.

        Returns:
          One float32 unit row an item, in the order of `items`.

        Raises:
          BadInputError: an item has neither text nor image, an unknown key, or an image that cannot be decoded; names
            it. Or `dimensions` is not from 1 to D.
          NonFiniteEmbeddingError: a vector is NaN or infinite; names the item.
        """
        sides = [item if isinstance(item, Side) else _side(number, item) for number, item in enumerate(items)]
        if not sides:
            raise BadInputError("nothing to encode")
        try:
            sizes = self.processor.measure(sides)
        except ImageError:
            self._blame(sides)
            raise
        self.check(dimensions)
        batch_size = -(-batch_size // self.devices) * self.devices
        # Longest first: neighbours share a bucket, and memory runs out at once or never.
        order = np.lexsort((-sizes.tokens, -sizes.units))
        rows: list[np.ndarray] = []
        for start in range(0, len(sides), batch_size):
            batch = order[start : start + batch_size]
            padded = np.resize(batch, batch_size)  # a short last batch repeats its rows
            bucket = self.buckets.fit(sizes.tokens[padded], sizes.units[padded], self.devices)
            rows.append(self._encode([sides[i] for i in batch], bucket, batch_size)[: len(batch)])
            progress(len(batch))
        result = np.empty((len(sides), self.width), np.float32)
        result[order] = np.concatenate(rows)
        _require_finite(result, sides)
        return shortened(result, dimensions)

    def check(self, dimensions: int | None) -> None:
        """Raises BadInputError unless vectors can be cut to so many dimensions."""
        if dimensions is not None and not 1 <= dimensions <= self.width:
            raise BadInputError(f"dimensions must be from 1 to the model's {self.width}, got {dimensions}")

    def _encode(self, sides: Sequence[Side], bucket: Bucket, batch_size: int) -> Float32[np.ndarray, "n D"]:
        try:
            rows = batch_size // self.devices
            mine = range(self.devices) if self.groups is None else self.groups
            examples = [
                self.processor.prepare(side) if place // rows in mine else None for place, side in enumerate(sides)
            ]
        except ImageError:
            self._blame(sides)
            raise
        padding = [None] * (batch_size - len(examples))
        inputs = self.processor.collate([*examples, *padding], bucket, self.devices)
        embeddings = np.asarray(self.embed(self.parameters, self.place(inputs)))
        return embeddings.reshape(batch_size, -1)

    def _blame(self, sides: Sequence[Side]) -> None:
        """Raises an error that names the first image that cannot be read."""
        for side in sides:
            for source in side.images:
                try:
                    self.processor.prepare(Side("", (source,)))
                except ImageError as error:
                    raise BadInputError(f"{source}: {error}") from error


def embed_program(functional: Functional[EmbeddingModel], mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
    """(parameters, grouped inputs) -> (G, R, D) on every device, jitted: each process ranks the same queries."""

    def embed(parameters: Parameters, inputs: Any) -> Array:
        return embed_groups(functools.partial(functional.embed, parameters), inputs, mesh, BATCH)

    return jax.jit(embed, out_shardings=replicated(mesh))


def _require_finite(vectors: Float32[np.ndarray, "n D"], sides: Sequence[Side]) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        first, bad = int(np.argmin(finite)), int(np.count_nonzero(~finite))
        raise NonFiniteEmbeddingError(
            f"the embedding of item {first} ({described(sides[first])}) is not finite ({bad} of {len(sides)} are not); "
            "the weights may have diverged, or the compute dtype may overflow"
        )


def shortened(vectors: Float32[np.ndarray, "n D"], dimensions: int | None) -> Float32[np.ndarray, "n d"]:
    """Vectors cut to their first entries and normalised again (Matryoshka, arXiv 2205.13147); None: whole."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.float32(1e-7))


def _side(number: int, item: Mapping[str, Any]) -> Side:
    unknown = set(item) - {"text", "image", "images"}
    if unknown:
        raise BadInputError(f"item {number}: unknown keys {sorted(unknown)}; known: text, image, images")
    sources: Sequence[Path | str | Image] = item.get("images") or ([item["image"]] if item.get("image") else [])
    text = item.get("text") or ""
    if not text and not sources:
        raise BadInputError(f"item {number}: has neither text nor image")
    return side_of(text, [Path(source) if isinstance(source, str) else source for source in sources])
