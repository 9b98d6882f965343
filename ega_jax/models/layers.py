"""The parts that every tower is made of.

Parameters are float32 and carry the logical names of their axes as plain metadata (`nnx.Param(value, axes=...)`);
`logical_axes` reads them back. How the arithmetic is carried out is one setting, `Compute`, that changes no result
beyond rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from ega_jax.errors import BadInputError
from ega_jax.models.attention import IMPLEMENTATIONS
from ega_jax.models.attention.xla import MIXED_VALUES

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from ega_jax.models.lora import Lora

Axes = tuple[str | None, ...]
"""Logical names of a parameter's axes, one each; None where an axis is never split."""

NARROW = 64
"""A number that is a sum of so few products is made again sooner than it is written and read: an adapter's part."""


def _keeps_wide_products(primitive: Any, *operands: Any, **parameters: Any) -> bool:
    """Policy: the results of products with parameters, where each number is a sum of more than `NARROW`."""
    if not jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *operands, **parameters):
        return False
    (summed, _), _ = parameters["dimension_numbers"]
    return math.prod(operands[0].shape[axis] for axis in summed) > NARROW


_REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        _keeps_wide_products,
        jax.checkpoint_policies.save_only_these_names(MIXED_VALUES),
    ),
}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model's arithmetic is carried out.

    Attributes:
      dtype: dtype of activations and of the parameters' copies in matmuls. Norms, softmax, rotary angles and
        the embedding itself are float32 whatever it is.
      remat: what a layer's backward pass recomputes: "full" everything but the layer's input, "dots"
        everything but (wide) matmuls with parameters and the values that attention by XLA mixed, "none" nothing.
      attention: the backend, one of `ega_jax.models.attention.IMPLEMENTATIONS`; "auto" goes by the platform.

    Raises:
      BadInputError: a value that is none of these.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots"] = "full"
    attention: Literal["auto", "xla", "by_heads", "chunked", "cudnn", "splash"] = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise BadInputError(f"compute dtype {self.dtype!r}: choose 'float32' or 'bfloat16'")
        if self.remat != "none" and self.remat not in _REMAT_POLICIES:
            raise BadInputError(f"remat {self.remat!r}: choose 'none', 'full' or 'dots'")
        if self.attention not in IMPLEMENTATIONS:
            raise BadInputError(f"attention {self.attention!r}: choose one of {', '.join(IMPLEMENTATIONS)}")


DEFAULT_COMPUTE = Compute()


class Linear(nnx.Module):
    """x W + b, with W (in, out) drawn from N(0, 1 / in) and b = 0; plus a low-rank adapter, if `add_lora` gave one."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        axes: Axes,
        compute: Compute,
        rngs: nnx.Rngs,
        use_bias: bool = True,
    ) -> None:
        kernel = in_features**-0.5 * jax.random.normal(rngs.params(), (in_features, out_features))
        self.kernel = nnx.Param(kernel, axes=axes)
        self.bias = nnx.Param(jnp.zeros(out_features), axes=axes[1:]) if use_bias else None
        self.lora: Lora | None = nnx.data(None)
        self.dtype = compute.dtype

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        # All leading axes as one: XLA's CPU backend takes 2.4 times as long for the kernel's gradient over several.
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        y = rows @ self.kernel[...].astype(self.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(self.dtype)
        if self.lora is not None:
            y = y + self.lora(rows)
        return y.reshape(*x.shape[:-1], -1)


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias, in float32; the result has the dtype of x."""

    def __init__(self, features: int, *, eps: float, axes: Axes) -> None:
        self.scale = nnx.Param(jnp.ones(features), axes=axes)
        self.bias = nnx.Param(jnp.zeros(features), axes=axes)
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x²) + eps) * scale, in float32; the result has the dtype of x unless another is asked for."""

    def __init__(self, features: int, *, eps: float, axes: Axes) -> None:
        self.scale = nnx.Param(jnp.ones(features), axes=axes)
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"], *, dtype: str | None = None) -> Float[Array, "*B D"]:
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.eps) * self.scale[...]
        return y.astype(x.dtype if dtype is None else dtype)


class Embed(nnx.Module):
    """A table of token embeddings, drawn from N(0, 1 / features)."""

    def __init__(self, num_embeddings: int, features: int, *, compute: Compute, rngs: nnx.Rngs) -> None:
        table = features**-0.5 * jax.random.normal(rngs.params(), (num_embeddings, features))
        self.embedding = nnx.Param(table, axes=("vocab", "embed"))
        self.dtype = compute.dtype

    def __call__(self, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        # Gather, then cast: the gradient then adds up in float32, where bfloat16 would lose a frequent token's.
        return self.embedding[...][ids].astype(self.dtype)


def rotary_angles(
    positions: Int[Array, "B T"] | Int[Array, "B T axes"],
    head_dim: int,
    theta: float,
    sections: Sequence[int] = (),
) -> tuple[Float[Array, "B T half"], Float[Array, "B T half"]]:
    """Cosine and sine of position * theta^(-2i / head_dim), i < head_dim / 2, float32 (arXiv 2104.09864).

    Args:
      positions: (B, T), or (B, T, axes) where a token has one position an axis.
      head_dim: width of a head, even.
      theta: base of the frequencies.
      sections: how many of the angles, lowest i first, turn with each axis' position (M-RoPE, arXiv 2409.12191).
    """
    frequencies = np.float32(theta ** (-np.arange(0, head_dim, 2) / head_dim))
    if positions.ndim == 2:
        positions = positions[..., None]
    else:
        positions = positions[..., np.repeat(np.arange(len(sections)), sections)]
    angles = positions.astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "B T H d"], angles: tuple[Float[Array, "B T half"], Float[Array, "B T half"]]
) -> Float[Array, "B T H d"]:
    """Turns each pair (x[i], x[i + d/2]) by its angle: the "half" layout of GPT-NeoX, Llama and Qwen."""
    cos, sin = (a[:, :, None] for a in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


class Stack(nnx.Module):
    """Equal layers run one after the other by `jax.lax.scan`, so that compile time does not grow with depth.

    `layers` is one layer module whose parameters have a leading axis over depth ("layers").
    """

    def __init__(
        self,
        make_layer: Callable[[nnx.Rngs], nnx.Module],
        num_layers: int,
        *,
        compute: Compute,
        rngs: nnx.Rngs,
    ) -> None:
        keys = jax.random.split(rngs.params(), num_layers)
        self.layers = jax.vmap(lambda key: make_layer(nnx.Rngs(params=key)))(keys)
        self.remat = compute.remat

    def __call__(self, x: Float[Array, "B T D"], *args: Any) -> Float[Array, "B T D"]:
        """Applies layer(x, *args) for each layer; `args` are the same for all."""

        def step(x: Array, layer: Callable[..., Array]) -> tuple[Array, None]:
            return layer(keep_rows(x), *args), None

        if self.remat != "none":
            # Inside a scan, common subexpressions cannot be merged across the loop: no barrier is needed.
            step = jax.checkpoint(step, policy=_REMAT_POLICIES[self.remat], prevent_cse=False)
        return keep_rows(jax.lax.scan(step, x, self.layers)[0])


def keep_rows(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """`x`, whose rows stay on the devices that `embed_groups` gave them to.

    Where a weight's output features are split, XLA may split the activations' features like them and give every device
    the rows of all: then it sends activations in each layer, where weights are less.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or any(kind != jax.sharding.AxisType.Auto for kind in mesh.axis_types):
        return x
    # What is left open here gets the batch's axes from the `vmap` around it.
    return jax.lax.with_sharding_constraint(x, P(*[P.UNCONSTRAINED] * x.ndim))


def logical_axes(state: Any) -> Any:
    """The logical axis names of each variable of a state: same structure, a tuple of names per variable.

    A stacked parameter has one axis more than its own names: the leading "layers".

    Raises:
      ValueError: a variable without names, or with the wrong number of them.
    """

    def names(path: tuple, variable: nnx.Variable) -> Axes:
        axes, ndim = variable.get_metadata().get("axes"), len(variable.shape)
        if axes is None or ndim - len(axes) not in (0, 1):
            raise ValueError(f"{jax.tree_util.keystr(path)}: shape {variable.shape} but axes {axes}")
        return ("layers",) * (ndim - len(axes)) + tuple(axes)

    return jax.tree_util.tree_map_with_path(names, state, is_leaf=lambda x: isinstance(x, nnx.Variable))
