"""Scaled dot-product attention: the one place where queries meet keys."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


def attention(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    *,
    causal: bool,
    key_mask: Bool[Array, "B S"] | None = None,
    implementation: str = "xla",
) -> Float[Array, "B T H d"]:
    """Softmax(q kᵀ / √d) v with grouped keys: query head j reads key head j // (H / K).

    Args:
      q: (B, T, H, d) queries.
      k: (B, S, K, d) keys; K divides H.
      v: (B, S, K, d) values.
      causal: position t attends to positions s <= t only.
      key_mask: (B, S), False on keys that nobody attends to (padding).
      implementation: the backend; "xla" materialises the (T, S) logits in float32.

    Returns:
      (B, T, H, d) in the dtype of `q`. A query without any key left attends to all of them evenly: the result
      is finite, and means nothing.

    Raises:
      ValueError: an unknown implementation, or heads that do not divide.
    """
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads do not divide among {k.shape[2]} key heads")
    if implementation == "xla":
        return _xla_attention(q, k, v, _mask(q.shape[1], k.shape[1], causal, key_mask))
    raise ValueError(f"unknown attention implementation {implementation!r}; known: 'xla'")


def _mask(
    num_queries: int, num_keys: int, causal: bool, key_mask: Bool[Array, "B S"] | None
) -> Bool[Array, "#B #T S"] | None:
    mask = None if key_mask is None else key_mask[:, None, :]
    if causal:
        lower = jnp.tril(jnp.ones((num_queries, num_keys), bool))[None]
        mask = lower if mask is None else mask & lower
    return mask


def _xla_attention(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    mask: Bool[Array, "#B #T S"] | None,
) -> Float[Array, "B T H d"]:
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
