"""Attention as XLA's own matrix products and softmax, with the logits in memory."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Bool, Float, Int

MIXED_VALUES = "mixed_values"
"""The name under which a rematerialization policy finds the result: small beside the logits that it is made of."""

LEAST_BLOCK = 128
"""Queries of a block, at least: smaller products are slower."""
MOST_BLOCKS = 8
"""Blocks, at most: each is a part of the program to compile. Eight leave out 44% of the logits, more at most 50%."""


def xla_attention(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    *,
    causal: bool,
    key_mask: Bool[Array, "B S"] | None,
    segment_ids: Int[Array, "B T"] | None,
) -> Float[Array, "B T H d"]:
    """See `ega_jax.models.attention.attention`.

    Causal queries are cut into blocks, each of which meets no key behind its last query: of long rows nearly half of
    the logits are never made.
    """
    num_queries, num_keys, dtype = q.shape[1], k.shape[1], k.dtype
    blocks = min(num_queries // LEAST_BLOCK, MOST_BLOCKS) if causal and num_queries == num_keys else 1
    if blocks > 1:
        # Every block adds to the gradients of the first keys and values: float32 outside makes the sum float32.
        k, v = k.astype(jnp.float32), v.astype(jnp.float32)

    def attend(queries: Float[Array, "B block H d"], first: int) -> Float[Array, "B block H d"]:
        last = first + queries.shape[1]
        seen = last if blocks > 1 else num_keys
        mask = visible_keys(
            jnp.arange(first, last),
            seen,
            causal=causal,
            key_mask=None if key_mask is None else key_mask[:, :seen],
            query_segments=None if segment_ids is None else segment_ids[:, first:last],
            key_segments=None if segment_ids is None else segment_ids[:, :seen],
        )
        return masked_attention(queries, k[:, :seen].astype(dtype), v[:, :seen].astype(dtype), mask)

    if blocks <= 1:
        return attend(q, 0)
    firsts = [num_queries * block // blocks for block in range(blocks)]
    parts = zip(jnp.split(q, firsts[1:], axis=1), firsts, strict=True)
    return jnp.concatenate([attend(queries, first) for queries, first in parts], axis=1)


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
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    mixed = jnp.einsum("bkns,bskd->bknd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    mixed = quotient(mixed, jnp.sum(weights, axis=-1, keepdims=True), v.dtype).reshape(grouped.shape)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(q.shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def quotient(
    mixed: Float[Array, "B K N d"], total: Float[Array, "B K N 1"], dtype: DTypeLike
) -> Float[Array, "B K N d"]:
    """The division of a softmax, after the values are mixed.

    Dividing the weights instead would make the way back sum over all keys for every query, a third of its time on long
    rows: here that sum is one over the few features of a mixed value. The derivative is told by the result, for that is
    what layers keep (`MIXED_VALUES`).
    """
    return (mixed / total).astype(dtype)


@quotient.defjvp
def _quotient_jvp(dtype: DTypeLike, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    result = checkpoint_name(quotient(*primals, dtype), MIXED_VALUES)
    return result, ((tangents[0] - result * tangents[1]) / primals[1]).astype(dtype)
