"""Attention as XLA's own matrix products and softmax, with all logits in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def xla_attention(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    *,
    causal: bool,
    key_mask: Bool[Array, "B S"] | None,
    segment_ids: Int[Array, "B T"] | None,
) -> Float[Array, "B T H d"]:
    """See `ega_jax.models.attention.attention`."""
    mask = visible_keys(
        jnp.arange(q.shape[1]),
        k.shape[1],
        causal=causal,
        key_mask=key_mask,
        query_segments=segment_ids,
        key_segments=segment_ids,
    )
    return masked_attention(q, k, v, mask)


def visible_keys(
    positions: Int[Array, " T"],
    num_keys: int,
    *,
    causal: bool,
    key_mask: Bool[Array, "B S"] | None,
    query_segments: Int[Array, "B T"] | None,
    key_segments: Int[Array, "B S"] | None,
) -> Bool[Array, "#B #T S"] | None:
    """Which of the keys 0 ... S-1 the queries at `positions` attend to; None is all of them."""
    masks = []
    if causal:
        masks.append((jnp.arange(num_keys) <= positions[:, None])[None])
    if key_mask is not None:
        masks.append(key_mask[:, None, :])
    if query_segments is not None and key_segments is not None:
        masks.append(query_segments[:, :, None] == key_segments[:, None, :])
    mask = None
    for more in masks:
        mask = more if mask is None else mask & more
    return mask


def masked_attention(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    mask: Bool[Array, "#B #T S"] | None,
) -> Float[Array, "B T H d"]:
    """Attention to the keys where `mask` is True, with the softmax in float32."""
    batch, num_queries, _, head_dim = q.shape
    num_key_heads = k.shape[2]
    # A key head's group of query heads is laid out as more queries: plain batched matmuls, which XLA's CPU backend
    # runs up to twice as fast as contractions with a group axis.
    grouped = q.reshape(batch, num_queries, num_key_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, num_key_heads, -1, head_dim)
    logits = jnp.einsum("bknd,bskd->bkns", rows, k, preferred_element_type=jnp.float32) * (1 / math.sqrt(head_dim))
    if mask is not None:
        # The lowest finite number, not -inf: a fully masked (padding) row must not become NaN and poison gradients.
        logits = logits.reshape(*grouped.shape[:4], -1)
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
        logits = logits.reshape(*rows.shape[:3], -1)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bkns,bskd->bknd", weights, v).reshape(grouped.shape)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(q.shape)
