"""The Qwen2 decoder (arXiv 2407.10671) as an encoder of text: token embeddings in, hidden states out.

There is no language-model head: nothing here reads it, so it is never in memory.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
from flax import nnx

from ega_jax.models.attention import attention
from ega_jax.models.layers import Compute, Embed, Linear, RMSNorm, Stack, rotary_angles, rotate
from ega_jax.models.qwen2_config import Qwen2Config

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    Angles = tuple[Float[Array, "B T half"], Float[Array, "B T half"]]


class Qwen2(nnx.Module):
    """Token embeddings -> decoder layers -> final RMSNorm."""

    def __init__(self, config: Qwen2Config, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embed_tokens = Embed(config.vocab_size, config.hidden_size, compute=compute, rngs=rngs)
        make_layer = functools.partial(Qwen2Layer, config, compute)
        self.decoder = Stack(make_layer, config.num_hidden_layers, compute=compute, rngs=rngs)
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, axes=("embed",))

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        attention_mask: Bool[Array, "B T"],
        positions: Int[Array, "B T"] | Int[Array, "B T 3"],
    ) -> Float[Array, "B T D"]:
        """Final-norm hidden states, float32; those of padding tokens mean nothing.

        With M-RoPE, tokens may have positions in time, height and width.
        """
        config = self.config
        angles = rotary_angles(positions, config.head_dim, config.rope_theta, config.mrope_section or ())
        return self.norm(self.decoder(embeddings, attention_mask, angles), dtype="float32")


class Qwen2Layer(nnx.Module):
    """Pre-norm transformer layer: causal attention, then a gated MLP."""

    def __init__(self, config: Qwen2Config, compute: Compute, rngs: nnx.Rngs) -> None:
        norm = functools.partial(RMSNorm, config.hidden_size, eps=config.rms_norm_eps, axes=("embed",))
        self.input_layernorm = norm()
        self.self_attn = Qwen2Attention(config, compute, rngs)
        self.post_attention_layernorm = norm()
        self.mlp = Qwen2Mlp(config, compute, rngs)

    def __call__(
        self, x: Float[Array, "B T D"], attention_mask: Bool[Array, "B T"], angles: Angles
    ) -> Float[Array, "B T D"]:
        x = x + self.self_attn(self.input_layernorm(x), attention_mask, angles)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen2Attention(nnx.Module):
    """Causal grouped-query attention with rotary positions; biases on queries, keys and values alone."""

    def __init__(self, config: Qwen2Config, compute: Compute, rngs: nnx.Rngs) -> None:
        hidden = config.hidden_size
        key_size = config.num_key_value_heads * config.head_dim
        inward = ("embed", "heads")
        self.q_proj = Linear(hidden, hidden, axes=inward, compute=compute, rngs=rngs)
        self.k_proj = Linear(hidden, key_size, axes=inward, compute=compute, rngs=rngs)
        self.v_proj = Linear(hidden, key_size, axes=inward, compute=compute, rngs=rngs)
        self.o_proj = Linear(hidden, hidden, axes=inward[::-1], compute=compute, rngs=rngs, use_bias=False)
        self.head_dim, self.implementation = config.head_dim, compute.attention

    def __call__(
        self, x: Float[Array, "B T D"], attention_mask: Bool[Array, "B T"], angles: Angles
    ) -> Float[Array, "B T D"]:
        q, k, v = (
            project(x).reshape(*x.shape[:2], -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attention(
            rotate(q, angles),
            rotate(k, angles),
            v,
            causal=True,
            key_mask=attention_mask,
            implementation=self.implementation,
        )
        return self.o_proj(mixed.reshape(x.shape))


class Qwen2Mlp(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Qwen2Config, compute: Compute, rngs: nnx.Rngs) -> None:
        hidden, wide, axes = config.hidden_size, config.intermediate_size, ("embed", "mlp")
        self.gate_proj = Linear(hidden, wide, axes=axes, compute=compute, rngs=rngs, use_bias=False)
        self.up_proj = Linear(hidden, wide, axes=axes, compute=compute, rngs=rngs, use_bias=False)
        self.down_proj = Linear(wide, hidden, axes=axes[::-1], compute=compute, rngs=rngs, use_bias=False)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))
