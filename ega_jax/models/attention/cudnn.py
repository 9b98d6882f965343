"""Flash attention by cuDNN, for NVIDIA GPUs of compute capability 8.0 (A100) and later."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ega_jax.models.attention.chunked import chunked_attention
from ega_jax.models.attention.partition import on_mesh

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def cudnn_attention(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    *,
    causal: bool,
    key_mask: Bool[Array, "B S"] | None,
    segment_ids: Int[Array, "B T"] | None,
) -> Float[Array, "B T H d"]:
    """See `ega_jax.models.attention.attention`.

    Padding is given to the kernel as lengths, so it must stand on the right, as in all that this package prepares; a
    row whose padding stands elsewhere comes back as NaN rather than wrong. JAX's interface to cuDNN knows no segments:
    packed rows go to `chunked_attention`.

    Raises:
      ValueError: arrays that the kernel does not take: it computes in 16 bits, with heads of a multiple of 8 features.
    """
    if not fits_cudnn(q):
        raise ValueError(
            f"cuDNN attention takes float16 or bfloat16 and a head size that 8 divides, got {q.dtype} and "
            f"{q.shape[3]}; set model.dtype to 'bfloat16' or model.attention to 'chunked'"
        )
    if segment_ids is not None:
        return chunked_attention(q, k, v, causal=causal, key_mask=key_mask, segment_ids=segment_ids)
    run = functools.partial(_local, causal=causal)
    if key_mask is None and q.shape[1] % 2 == k.shape[1] % 2 == 0:
        return on_mesh(run, q, k, v, None)
    if key_mask is None:
        key_mask = jnp.ones(k.shape[:2], bool)
    lengths = key_mask.sum(-1, dtype=jnp.int32)
    right_padded = (key_mask == (jnp.arange(k.shape[1]) < lengths[:, None])).all(-1)
    # A row of padding alone, which fills up a batch, still needs a key.
    lengths = jnp.maximum(lengths, 1)
    # With gradients, JAX lets even lengths alone through to cuDNN.
    num_queries = q.shape[1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    mixed = on_mesh(run, q, k, v, lengths)[:, :num_queries]
    return jnp.where(right_padded[:, None, None, None], mixed, jnp.nan)


def fits_cudnn(q: Float[Array, "B T H d"]) -> bool:
    """Whether the kernel takes queries of this dtype and head size."""
    return q.dtype in (jnp.float16, jnp.bfloat16) and q.shape[3] % 8 == 0


def _local(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    lengths: Int[Array, " B"] | None,
    *,
    causal: bool,
) -> Float[Array, "B T H d"]:
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=causal,
        query_seq_lengths=lengths if q.shape[1] == k.shape[1] else None,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
