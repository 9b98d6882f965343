"""A model as a pure function of a flat dict of arrays: what optimizers, checkpoints and shardings want to see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jax
from flax import nnx

from ega_jax.models.embedding_model import EmbeddingModel
from ega_jax.models.layers import logical_axes
from ega_jax.models.weights import load_weights

if TYPE_CHECKING:
    from jaxtyping import Array, Float

Parameters = Mapping[str, jax.Array]
"""Path, such as "language_model/decoder/layers/mlp/up_proj/kernel", to array."""

Shardings = Mapping[str, jax.sharding.Sharding]
DTypes = Mapping[str, Any]

Model = TypeVar("Model", bound=EmbeddingModel)


class Functional(Generic[Model]):
    """The shape of a model without its weights: `merge` puts weights in, `embed` runs it.

    Attributes:
      parameters: path to shape and dtype.
      axes: path to the logical names of its axes.
    """

    def __init__(self, make: Callable[[nnx.Rngs], Model]) -> None:
        """
        Args:
          make: builds the model; run abstractly here, and for real by `initialize`.
        """
        self._make = make
        self._graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        self._variables = list(nnx.to_flat_state(state))
        self.parameters = {
            path: jax.ShapeDtypeStruct(variable.shape, variable.dtype) for path, variable in _flat(state).items()
        }
        self.axes = _flat(logical_axes(state))

    def initialize(
        self,
        seed: int,
        shardings: Shardings | None = None,
        *,
        dtypes: DTypes | None = None,
        paths: Iterable[str] | None = None,
    ) -> dict[str, jax.Array]:
        """Random weights, each born on the devices that its sharding names: no device ever holds them all.

        Args:
          seed: decides them.
          shardings: path to where it lives; by default the first device.
          dtypes: path to its dtype, where it is not the model's own.
          paths: draw these alone; they are what they are among all.
        """
        chosen = tuple(self.parameters if paths is None else paths)

        def draw() -> dict[str, jax.Array]:
            drawn = parameters_of(self._make(nnx.Rngs(seed)))
            return {path: drawn[path].astype((dtypes or {}).get(path, drawn[path].dtype)) for path in chosen}

        places = None if shardings is None else {path: shardings[path] for path in chosen}
        return jax.jit(draw, out_shardings=places)()

    def load(
        self,
        model_dir: Path,
        shardings: Shardings | None = None,
        *,
        dtypes: DTypes | None = None,
        paths: Collection[str] | None = None,
    ) -> dict[str, jax.Array]:
        """Published weights, each read straight to the devices that its sharding names; adapters are not among them.

        Args:
          model_dir: holds them.
          shardings, dtypes: as for `initialize`.
          paths: read these alone.

        Raises:
          BadInputError: as `load_weights`.
        """
        places, types = shardings or {}, dtypes or {}
        shapes: Any = {
            path: jax.ShapeDtypeStruct(leaf.shape, types.get(path, leaf.dtype), sharding=places.get(path))
            for path, leaf in self.parameters.items()
        }
        model = self.merge(shapes)
        load_weights(model, model_dir, paths=paths)
        return {
            path: variable.get_raw_value()
            for path, variable in _flat(nnx.state(model)).items()
            if not isinstance(variable, nnx.LoRAParam) and (paths is None or path in paths)
        }

    def merge(self, parameters: Parameters) -> Model:
        """The model with these weights. Cheap; meant to be called under `jax.jit`."""
        leaves = [(path, v.replace(parameters["/".join(map(str, path))])) for path, v in self._variables]
        return nnx.merge(self._graph, nnx.from_flat_state(leaves))

    def embed(self, parameters: Parameters, inputs: Mapping[str, Array]) -> Float[Array, "B D"]:
        """`model.embed(inputs)` of the model with these weights."""
        return self.merge(parameters).embed(inputs)


def embed_groups(
    embed: Callable[[Any], Float[Array, "R D"]], inputs: Any, mesh: jax.sharding.Mesh, axes: tuple[str, ...]
) -> Float[Array, "G R D"]:
    """Embeds groups of rows, each with its own tiles, that share a leading axis.

    One group alone is encoded without that axis, for XLA's CPU backend is half as fast with it.

    Args:
      embed: one group's inputs -> embeddings of its R rows.
      inputs: a tree of arrays with leading axis G.
      mesh: given to the attention kernels, which XLA cannot split over devices by itself.
      axes: its axes that split G.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        if jax.tree.leaves(inputs)[0].shape[0] == 1:
            return embed(jax.tree.map(lambda x: x[0], inputs))[None]
        return jax.vmap(embed, spmd_axis_name=axes)(inputs)


def parameters_of(model: nnx.Module) -> dict[str, jax.Array]:
    """The weights of a model, by path."""
    return {path: variable[...] for path, variable in _flat(nnx.state(model)).items()}


def _flat(state: Any) -> dict[str, Any]:
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
