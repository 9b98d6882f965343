"""Scaled dot-product attention: the one place where queries meet keys. One file a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ega_jax.models.attention.by_heads import attention_by_heads
from ega_jax.models.attention.chunked import chunked_attention
from ega_jax.models.attention.cudnn import cudnn_attention, fits_cudnn
from ega_jax.models.attention.splash import splash_attention
from ega_jax.models.attention.xla import xla_attention
from ega_jax.platforms import target_platform

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

_BACKENDS = {
    "xla": xla_attention,
    "by_heads": attention_by_heads,
    "chunked": chunked_attention,
    "cudnn": cudnn_attention,
    "splash": splash_attention,
}

IMPLEMENTATIONS = ("auto", *_BACKENDS)
"""Names of the backends. All give the same result but for rounding; they differ in memory and speed.

- "xla" holds the (T, S) logits of every head in float32, of long causal rows about half of them: the fastest for short
  sequences, and for causal ones on a CPU.
- "by_heads" holds those of a few heads at a time, as many as a CPU's caches hold, forward and backward: the fastest
  there for the tiles of a vision tower.
- "chunked" holds those of one block of queries at a time, forward and backward; on any platform.
- "cudnn" is a kernel for NVIDIA GPUs. Padding on the right alone; packed rows go by "chunked".
- "splash" is a kernel for TPUs. Padding anywhere, and packed rows.
- "auto" is "splash" on TPUs, "cudnn" on GPUs where it takes the arrays; elsewhere "chunked" where the logits of one
  head are many, "by_heads" on CPUs where they are neither many nor few and none is cut off, and "xla".
"""

_MOST_DENSE_LOGITS = 2048 * 2048
_FEW_LOGITS = 256 * 256


def attention(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    *,
    causal: bool,
    key_mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B T H d"]:
    """Softmax(q kᵀ / √d) v with grouped keys: query head j reads key head j // (H / K).

    Args:
      q: (B, T, H, d) queries.
      k: (B, S, K, d) keys; K divides H.
      v: (B, S, K, d) values.
      causal: position t attends to positions s <= t only.
      key_mask: (B, S), False on keys that nobody attends to (padding).
      segment_ids: (B, T), for several sequences packed into a row, T = S: position t attends to positions of its own
        id only. Padding has an id of its own. Ids are not negative.
      implementation: one of `IMPLEMENTATIONS`.

    Returns:
      (B, T, H, d) in the dtype of `q`. A query without any key left has a finite result that means nothing.

    Raises:
      ValueError: an unknown implementation, heads that do not divide, or segments of queries that are not the keys.
    """
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads do not divide among {k.shape[2]} key heads")
    if segment_ids is not None and not q.shape[:2] == k.shape[:2] == segment_ids.shape:
        raise ValueError(f"segment_ids {segment_ids.shape} are not those of {q.shape[:2]} queries, {k.shape[:2]} keys")
    if implementation == "auto":
        implementation = _choose(target_platform(), q, k.shape[1], causal=causal, packed=segment_ids is not None)
    if implementation not in _BACKENDS:
        raise ValueError(f"unknown attention implementation {implementation!r}; known: {', '.join(IMPLEMENTATIONS)}")
    if q.size == 0:  # the tiles of a batch of texts; kernels do not take empty arrays
        return q
    return _BACKENDS[implementation](q, k, v, causal=causal, key_mask=key_mask, segment_ids=segment_ids)


def _choose(platform: str, q: Float[Array, "B T H d"], num_keys: int, *, causal: bool, packed: bool) -> str:
    num_queries = q.shape[1]
    if platform == "tpu" and num_queries == num_keys:
        return "splash"
    if platform == "gpu" and fits_cudnn(q) and not packed:
        return "cudnn"
    if num_queries * num_keys > _MOST_DENSE_LOGITS:
        return "chunked"
    by_heads = platform == "cpu" and not causal and num_queries * num_keys > _FEW_LOGITS
    return "by_heads" if by_heads else "xla"
