"""Exact attention in memory that grows with the length and not with its square, on any platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ega_jax.models.attention.xla import masked_attention, visible_keys

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

BLOCK = 128
"""Queries whose logits exist at once. A block of 128 by 12,288 keys is 6 MiB a head."""


def chunked_attention(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    *,
    causal: bool,
    key_mask: Bool[Array, "B S"] | None,
    segment_ids: Int[Array, "B T"] | None,
    block_size: int = BLOCK,
) -> Float[Array, "B T H d"]:
    """See `ega_jax.models.attention.attention`.

    A scan over blocks of queries; the backward pass computes each block's logits again.
    """
    num_queries, dtype = q.shape[1], k.dtype
    num_blocks = -(-num_queries // block_size)

    def in_blocks(x: Array) -> Array:
        rows = jnp.pad(x, ((0, 0), (0, num_blocks * block_size - num_queries), *((0, 0),) * (x.ndim - 2)))
        return rows.reshape(x.shape[0], num_blocks, block_size, *x.shape[2:]).swapaxes(0, 1)

    # Every block adds to the gradients of all keys and values: float32 outside the loop makes the sum float32.
    k, v = k.astype(jnp.float32), v.astype(jnp.float32)

    @jax.checkpoint
    def attend(block: dict[str, Any]) -> Float[Array, "B block H d"]:
        mask = visible_keys(
            block["positions"],
            k.shape[1],
            causal=causal,
            key_mask=key_mask,
            query_segments=block.get("segments"),
            key_segments=segment_ids,
        )
        return masked_attention(block["queries"], k.astype(dtype), v.astype(dtype), mask)

    blocks = {"queries": in_blocks(q), "positions": jnp.arange(num_blocks * block_size).reshape(num_blocks, -1)}
    if segment_ids is not None:
        blocks["segments"] = in_blocks(segment_ids)
    _, mixed = jax.lax.scan(lambda _, block: (None, attend(block)), None, blocks)
    return mixed.swapaxes(0, 1).reshape(q.shape[0], -1, *q.shape[2:])[:, :num_queries]
