"""Names for weights themselves: equal weights have equal ones, wherever they came from and however they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, UInt32

    from ega_jax.models.functional import Parameters


def weights_fingerprint(parameters: Parameters) -> str:
    """32 hexadecimal digits that change when any bit of any parameter does.

    Each parameter is reduced where it lives: weights spread over many hosts are never gathered. It tells weights apart,
    as a cache must; it does not protect against somebody who wants two to be alike.
    """
    found = digests(parameters)
    lines = (f"{path} {value.shape} {value.dtype} {int(found[path])}\n" for path, value in sorted(parameters.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def digests(parameters: Parameters, dtypes: Mapping[str, Any] | None = None) -> dict[str, UInt32[Array, ""]]:
    """A number for each array that a change of any one of its bits changes, wherever the array lives.

    Args:
      parameters: the arrays.
      dtypes: the number is that of the array in this type.
    """

    @jax.jit
    def of_all(parameters: Parameters) -> dict[str, Array]:
        types = dtypes or {}
        return {path: _digest(value.astype(types.get(path, value.dtype))) for path, value in parameters.items()}

    return of_all(dict(parameters))


def _digest(value: Array) -> UInt32[Array, ""]:
    # Sums of integers do not depend on their order, and so not on the mesh. Each element is first mixed with its place
    # by steps that can be undone: no single change is lost, exchanged values are seen, and changes that follow a
    # pattern do not cancel, as in a linear sum (where ones turned into twos can add up to a multiple of 2^32).
    bits = jax.lax.bitcast_convert_type(value, jnp.dtype(f"uint{8 * value.dtype.itemsize}")).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(value.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, value.shape, axis)
    return jnp.sum(_mix(bits ^ _mix(place + jnp.uint32(0x9E3779B9))), dtype=jnp.uint32)


def _mix(x: Array) -> Array:
    """MurmurHash3's last step: each bit of the input changes about half of the output's."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
