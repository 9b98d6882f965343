"""LoRA (arXiv 2106.09685): a frozen kernel W gains a trained product A B of low rank."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from ega_jax.errors import BadInputError
from ega_jax.models.layers import Linear
from ega_jax.models.lora_config import LoraConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Array, Float


class Lora(nnx.Module):
    """x A B * scale, with A (in, rank) drawn from N(0, 1 / in) and B (rank, out). B starts at zero:
    a new adapter changes nothing."""

    def __init__(self, linear: Linear, config: LoraConfig, *, rngs: nnx.Rngs) -> None:
        *stacked, inputs, outputs = linear.kernel.shape
        axes = linear.kernel.get_metadata()["axes"]
        a = inputs**-0.5 * jax.random.normal(rngs.params(), (*stacked, inputs, config.rank))
        self.a = nnx.LoRAParam(a, axes=(axes[0], None))
        self.b = nnx.LoRAParam(jnp.zeros((*stacked, config.rank, outputs)), axes=(None, axes[1]))
        self.scale = config.scale
        self.dtype = linear.dtype

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        # The gradient of A is made as (rank, in). The barrier keeps XLA from turning it round: its CPU kernels take ten
        # times as long for products of a few columns as for those of a few rows.
        a = jax.lax.optimization_barrier(self.a[...].astype(self.dtype).T)
        low = jnp.einsum("ri,...i->...r", a, x.astype(self.dtype))
        # Scaled while it is narrow: so is its gradient then.
        return (low * self.scale) @ self.b[...].astype(self.dtype)

    def product(self, layer: int | None = None) -> Float[Array, "*L in out"]:
        """What the adapter adds to the kernel, or to that of one layer of a stack, float32."""
        a, b = (low[...] if layer is None else low[layer] for low in (self.a, self.b))
        return self.scale * jnp.matmul(a, b, precision="highest")


def add_lora(model: nnx.Module, config: LoraConfig, *, rngs: nnx.Rngs) -> None:
    """Gives every linear map whose path matches an adapter, in place; its variables are `flax.nnx.LoRAParam`.

    Raises:
      BadInputError: an expression is not one, or matches no linear map.
    """
    if config.rank == 0:
        return
    linears = dict(_linears(model))
    chosen: dict[str, Linear] = {}
    for pattern in config.paths:
        try:
            hits = {path: linear for path, linear in linears.items() if re.match(pattern, path)}
        except re.error as error:
            raise BadInputError(f"lora paths: {pattern!r} is not a regular expression: {error}") from error
        if not hits:
            raise BadInputError(f"lora paths: {pattern!r} matches none of {', '.join(sorted(linears))}")
        chosen |= hits
    if not chosen:
        raise BadInputError(f"lora rank {config.rank}, but lora paths are empty: name what to adapt")
    for path in sorted(chosen):
        chosen[path].lora = nnx.data(Lora(chosen[path], config, rngs=rngs))


def merge_lora(model: nnx.Module) -> None:
    """Adds every adapter to its kernel and removes it, in place: the same function as a plain model, to be exported."""
    for _, linear in _linears(model):
        if linear.lora is not None:
            linear.kernel[...] = linear.kernel[...] + linear.lora.product()
            linear.lora = nnx.data(None)


def adapters_of(model: nnx.Module) -> dict[str, Lora]:
    """The adapters of a model, by the path of their linear map."""
    return {path: linear.lora for path, linear in _linears(model) if linear.lora is not None}


def _linears(model: nnx.Module) -> Iterator[tuple[str, Linear]]:
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Linear):
            yield "/".join(map(str, path)), module
