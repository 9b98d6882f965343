"""Attention and its gradients by their formulas, in float64; and what backends are asked to match them on."""

import jax
import numpy as np


def visible(rows, queries, keys, *, causal=False, key_mask=None, segment_ids=None):
    """(B, T, S): which query attends to which key."""
    seen = np.ones((rows, queries, keys), bool)
    if causal:
        seen &= np.tri(queries, keys, dtype=bool)
    if key_mask is not None:
        seen &= np.asarray(key_mask)[:, None, :]
    if segment_ids is not None:
        seen &= np.asarray(segment_ids)[:, :, None] == np.asarray(segment_ids)[:, None, :]
    return seen


def attention(q, k, v, seen, pull):
    """The result, and the gradients of q, k and v for the result's gradient `pull`."""
    q, k, v, pull = (np.asarray(x, np.float64) for x in (q, k, v, pull))
    group = q.shape[2] // k.shape[2]
    keys, values = (x.repeat(group, axis=2) for x in (k, v))
    scale = q.shape[-1] ** -0.5
    logits = np.where(seen[:, None], np.einsum("bthd,bshd->bhts", q, keys) * scale, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    pulled = np.einsum("bthd,bshd->bhts", pull, values)
    pulled = weights * (pulled - (weights * pulled).sum(-1, keepdims=True)) * scale

    def over_groups(x):
        return x.reshape(*k.shape[:3], group, k.shape[3]).sum(3)

    return (
        np.einsum("bhts,bshd->bthd", weights, values),
        np.einsum("bhts,bshd->bthd", pulled, keys),
        over_groups(np.einsum("bhts,bthd->bshd", pulled, q)),
        over_groups(np.einsum("bhts,bthd->bshd", weights, pull)),
    )


def with_gradients(attend, q, k, v, pull):
    """The result of a backend and its gradients, as `attention` has them."""
    mixed, pullback = jax.vjp(attend, q, k, v)
    return mixed, *pullback(pull)


def arrays(*lead, length, head_dim, heads=4, key_heads=2):
    """(q, k, v, pull) of two rows, with axes `lead` behind the first."""
    rng = np.random.default_rng(0)
    q, pull = rng.normal(size=(2, *lead, length, heads, head_dim)).astype(np.float32)
    k, v = rng.normal(size=(2, *lead, length, key_heads, head_dim)).astype(np.float32)
    return q, k, v, pull
