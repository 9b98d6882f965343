"""A name for the weights themselves: equal weights have equal ones, wherever they came from and however they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, UInt32


def weights_fingerprint(parameters: Mapping[str, Array]) -> str:
    """32 hexadecimal digits that change when any bit of any parameter does.

    Each parameter is reduced where it lives, so that weights spread over many hosts are never gathered. The sums are of
    integers, modulo 2^32: no sharding and no order of addition changes them. It tells weights apart, as a cache must;
    it does not protect against somebody who wants two to be alike.

    Args:
      parameters: by path, of up to 32 bits an element.
    """
    sums = jax.jit(lambda leaves: {name: _sums(leaf) for name, leaf in leaves.items()})(dict(parameters))
    digest = hashlib.sha256()
    for name in sorted(sums):
        leaf = parameters[name]
        digest.update(f"{name} {leaf.shape} {leaf.dtype}\n".encode())
        digest.update(np.asarray(sums[name]).astype("<u4").tobytes())
    return digest.hexdigest()[:32]


def _sums(leaf: Array) -> UInt32[Array, " 2"]:
    """Two sums over elements, each mixed with its place."""
    bits = lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")).astype(jnp.uint32)
    place, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):  # no reshape: it would gather what is sharded
        place += lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= leaf.shape[axis]
    first = _mix(bits ^ _mix(place + jnp.uint32(0x9E3779B9)))
    return jnp.stack([first.sum(dtype=jnp.uint32), _mix(first + jnp.uint32(0x85EBCA6B)).sum(dtype=jnp.uint32)])


def _mix(x: Array) -> Array:
    """MurmurHash3's last step: each bit of the input changes about half of the output's."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
