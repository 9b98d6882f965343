"""The transformer layer that vision towers share: pre-norm, bidirectional attention, an MLP; biases everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import jax
from flax import nnx

from ega_jax.models.attention import attention
from ega_jax.models.layers import Compute, LayerNorm, Linear, rotate

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    Angles = tuple[Float[Array, "B P half"], Float[Array, "B P half"]]
    Activation = Callable[[Array], Array]


class LayerSizes(Protocol):
    """What a layer reads of a tower's config."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def layer_norm_eps(self) -> float: ...


class VisionLayer(nnx.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: LayerSizes, activation: Activation, compute: Compute, rngs: nnx.Rngs) -> None:
        norm = functools.partial(LayerNorm, config.hidden_size, eps=config.layer_norm_eps, axes=("vision_embed",))
        self.layer_norm1 = norm()
        self.self_attn = VisionAttention(config, compute, rngs)
        self.layer_norm2 = norm()
        self.mlp = VisionMlp(config, activation, compute, rngs)

    def __call__(
        self, x: Float[Array, "B P D"], segments: Int[Array, "B P"] | None = None, angles: Angles | None = None
    ) -> Float[Array, "B P D"]:
        x = x + self.self_attn(self.layer_norm1(x), segments, angles)
        return x + self.mlp(self.layer_norm2(x))


class VisionAttention(nnx.Module):
    """Bidirectional multi-head attention over the patches of one row, or of one segment of it; rotary if asked to."""

    def __init__(self, config: LayerSizes, compute: Compute, rngs: nnx.Rngs) -> None:
        hidden, inward = config.hidden_size, ("vision_embed", "vision_heads")
        self.q_proj = Linear(hidden, hidden, axes=inward, compute=compute, rngs=rngs)
        self.k_proj = Linear(hidden, hidden, axes=inward, compute=compute, rngs=rngs)
        self.v_proj = Linear(hidden, hidden, axes=inward, compute=compute, rngs=rngs)
        self.out_proj = Linear(hidden, hidden, axes=inward[::-1], compute=compute, rngs=rngs)
        self.num_heads, self.implementation = config.num_attention_heads, compute.attention

    def __call__(
        self, x: Float[Array, "B P D"], segments: Int[Array, "B P"] | None, angles: Angles | None
    ) -> Float[Array, "B P D"]:
        q, k, v = (
            project(x).reshape(*x.shape[:2], self.num_heads, -1) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        mixed = attention(q, k, v, causal=False, segment_ids=segments, implementation=self.implementation)
        return self.out_proj(mixed.reshape(x.shape))


class VisionMlp(nnx.Module):
    """fc2(activation(fc1(x)))."""

    def __init__(self, config: LayerSizes, activation: Activation, compute: Compute, rngs: nnx.Rngs) -> None:
        hidden, wide, axes = config.hidden_size, config.intermediate_size, ("vision_embed", "vision_mlp")
        self.fc1 = Linear(hidden, wide, axes=axes, compute=compute, rngs=rngs)
        self.fc2 = Linear(wide, hidden, axes=axes[::-1], compute=compute, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        return self.fc2(self.activation(self.fc1(x)))


def gelu_tanh(x: Array) -> Array:
    """GELU by its approximation with tanh (SigLIP)."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), the approximation of GELU that CLIP and Qwen2-VL's tower use."""
    return x * jax.nn.sigmoid(1.702 * x)
