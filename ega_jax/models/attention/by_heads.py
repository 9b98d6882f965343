"""Attention a few heads at a time, whose logits stay in the caches of a CPU."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ega_jax.models.attention.partition import on_mesh
from ega_jax.models.attention.xla import xla_attention

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

MOST_LOGITS = 1_200_000
"""Of the heads of a turn: some 5 MB in float32. Two heads of SigLIP's 729 patches fit."""


def attention_by_heads(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    *,
    causal: bool,
    key_mask: Bool[Array, "B S"] | None,
    segment_ids: Int[Array, "B T"] | None,
) -> Float[Array, "B T H d"]:
    """See `ega_jax.models.attention.attention`.

    A loop over the key heads of every row, one or more at a time with their queries; the backward pass computes the
    logits of each turn again. XLA would otherwise write and read those of all heads several times.
    """
    attend = functools.partial(_local, causal=causal)
    return on_mesh(attend, q, k, v, {"key_mask": key_mask, "segment_ids": segment_ids})


def _local(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B S K d"],
    v: Float[Array, "B S K d"],
    rows: dict[str, Any],
    *,
    causal: bool,
) -> Float[Array, "B T H d"]:
    (batch, num_queries, query_heads, _), (num_keys, heads) = q.shape, k.shape[1:3]
    logits = num_queries * num_keys * query_heads // heads
    at_once = max((n for n in range(1, heads + 1) if heads % n == 0 and n * logits <= MOST_LOGITS), default=1)
    turns = heads // at_once

    def in_turns(x: Float[Array, "B T H d"]) -> Float[Array, "turns 1 T h d"]:
        return (
            x.reshape(*x.shape[:2], turns, -1, x.shape[3])
            .swapaxes(1, 2)
            .reshape(batch * turns, 1, x.shape[1], -1, x.shape[3])
        )

    @jax.checkpoint
    def attend(turn: tuple[Array, Array, Array, dict[str, Any]]) -> Float[Array, "1 T h d"]:
        q, k, v, row = turn
        return xla_attention(q, k, v, causal=causal, **row)

    of_turns = jax.tree.map(lambda x: jnp.repeat(x, turns, axis=0)[:, None], rows)
    mixed = jax.lax.map(attend, (in_turns(q), in_turns(k), in_turns(v), of_turns))
    return mixed.reshape(batch, turns, num_queries, -1, q.shape[3]).swapaxes(1, 2).reshape(q.shape)
