"""Splash attention: JAX's Pallas kernel for TPUs. Logits live in on-chip memory, forward and backward."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ega_jax.models.attention.partition import on_mesh

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

LANES = 128
"""Lengths and head sizes are padded to a multiple of the width of a TPU's registers."""

_LARGEST_BLOCK = 512
_PADDING = -1


def splash_attention(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B T K d"],
    v: Float[Array, "B T K d"],
    *,
    causal: bool,
    key_mask: Bool[Array, "B T"] | None,
    segment_ids: Int[Array, "B T"] | None,
    interpret: bool = False,
) -> Float[Array, "B T H d"]:
    """See `ega_jax.models.attention.attention`.

    Padding is a segment of its own, so it may stand anywhere; its results differ from other backends' and mean nothing.

    Args:
      interpret: run the kernel's program by XLA's own operations, on any platform and slowly: for tests.

    Raises:
      ValueError: queries and keys differ in number.
    """
    length, head_dim = q.shape[1], q.shape[3]
    if k.shape[1] != length:
        raise ValueError(f"splash attention needs as many keys as queries, got {k.shape[1]} and {length}")
    padding = -length % LANES
    segments = segment_ids
    if segments is None and (key_mask is not None or padding):
        segments = jnp.zeros(q.shape[:2], jnp.int32)
    if segments is not None:
        if key_mask is not None:
            segments = jnp.where(key_mask, segments, _PADDING)
        segments = jnp.pad(segments.astype(jnp.int32), ((0, 0), (0, padding)), constant_values=_PADDING)
    # Zeros in a head's features change no logit, and add features to the result that are cut off again.
    widths = ((0, 0), (0, padding), (0, 0), (0, -head_dim % LANES))
    q, k, v = (jnp.pad(x, widths) for x in (q * (1 / math.sqrt(head_dim)), k, v))
    kernel = functools.partial(_local, causal=causal, interpret=interpret)
    return on_mesh(kernel, q, k, v, segments)[:, :length, :, :head_dim]


def _local(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B T K d"],
    v: Float[Array, "B T K d"],
    segments: Int[Array, "B T"] | None,
    *,
    causal: bool,
    interpret: bool,
) -> Float[Array, "B T H d"]:
    # Imported where it is used: Pallas takes a second to import, and only TPUs and tests want it.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    length, num_heads = q.shape[1:3]
    block = max(size for size in range(LANES, _LARGEST_BLOCK + 1, LANES) if length % size == 0)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    one_head = (splash.CausalMask if causal else splash.FullMask)((length, length))
    attend = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([one_head] * num_heads), block_sizes=sizes, interpret=interpret
    )
    ids = None if segments is None else splash.SegmentIds(segments, segments)
    mixed = jax.vmap(attend)(q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), ids)
    return mixed.swapaxes(1, 2).astype(q.dtype)
