"""The matrix products of the loss: similarities from embeddings, and gradients back.

Norms are divided out *after* the products, in float32. Normalising first and rounding to bfloat16 would cost
0.04 of a logit at temperature 0.02; this way it is 2e-5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

_CONTRACT_FEATURES = (((1,), (1,)), ((), ()))
_CONTRACT_COLUMNS = (((1,), (0,)), ((), ()))
_CONTRACT_ROWS = (((0,), (0,)), ((), ()))
_CONTRACT_OWN_FEATURES = (((2,), (1,)), ((0,), (0,)))
_CONTRACT_OWN = (((1,), (1,)), ((0,), (0,)))
_CONTRACT_TILES = (((2,), (2,)), ((0,), (0,)))
# Rows of a tile: fewer, and CPUs sum up in another order than for a large product.
_TILE = 64


def accumulator_dtype(dtype: Any) -> Any:
    """Returns the dtype of everything past the products: float32, or float64 for float64 embeddings."""
    return jnp.promote_types(dtype, jnp.float32)


def inverse_norms(embeddings: Float[Array, "*N D"], normalize: bool) -> Float[Array, "*N"]:
    """Returns 1 / ‖row‖, 0 for a row of zeros (which is then similar to nothing and gets no gradient)."""
    dtype = accumulator_dtype(embeddings.dtype)
    if not normalize:
        return jnp.ones_like(embeddings[..., 0], dtype)  # varying over the mesh as they do
    norms = jnp.sqrt(jnp.sum(jnp.square(embeddings.astype(dtype)), axis=-1))
    return jnp.where(norms == 0, 0.0, 1.0 / jnp.where(norms == 0, 1.0, norms))


def similarities(
    queries: Float[Array, "N D"],
    targets: Float[Array, "M D"],
    query_inverse_norms: Float[Array, " N"],
    target_inverse_norms: Float[Array, " M"],
    precision: Any,
) -> Float[Array, "N M"]:
    """Returns the dot products of all pairs of rows, norms divided out."""
    products = _dot(queries, targets, _CONTRACT_FEATURES, precision)
    return products * query_inverse_norms[:, None] * target_inverse_norms[None, :]


def query_gradients(
    product_gradient: Float[Array, "N M"], targets: Float[Array, "M D"], precision: Any
) -> Float[Array, "N D"]:
    """Returns the gradient by queries, given that by the undivided products; see `project`."""
    return _dot(*_gradient_operands(product_gradient, targets), _CONTRACT_COLUMNS, precision)


def target_gradients(
    product_gradient: Float[Array, "N M"], queries: Float[Array, "N D"], precision: Any
) -> Float[Array, "D M"]:
    """Returns the gradient by targets, likewise, transposed: CPUs take 0.8 of the time that the plain one takes."""
    weights, queries = _gradient_operands(product_gradient, queries)
    return _dot(queries, weights, _CONTRACT_ROWS, precision)


def own_similarities(
    queries: Float[Array, "N D"],
    negatives: Float[Array, "N K D"],
    query_inverse_norms: Float[Array, " N"],
    negative_inverse_norms: Float[Array, "N K"],
    precision: Any,
) -> Float[Array, "N K"]:
    """Returns the dot products of each query with its own negatives, norms divided out."""
    products = _dot(negatives, queries, _CONTRACT_OWN_FEATURES, precision)
    return products * query_inverse_norms[:, None] * negative_inverse_norms


def paired_similarities(
    queries: Float[Array, "N D"],
    partners: Float[Array, "N D"],
    query_inverse_norms: Float[Array, " N"],
    partner_inverse_norms: Float[Array, " N"],
    precision: Any,
) -> Float[Array, " N"]:
    """Returns the dot product of each query with the partner in the same row, norms divided out.

    They are the diagonals of small tiles of all-pair products, which round as `similarities` do (on CPUs to the
    bit): so the same pair has one similarity, and a copy of a positive ties with it.
    """
    num_rows, features = queries.shape
    missing = -num_rows % _TILE

    def tiles(rows: Array) -> Array:
        return jnp.pad(rows, ((0, missing), (0, 0))).reshape(-1, _TILE, features)

    products = _dot(tiles(queries), tiles(partners), _CONTRACT_TILES, precision)
    diagonals = jnp.diagonal(products, axis1=1, axis2=2).reshape(-1)[:num_rows]
    return diagonals * query_inverse_norms * partner_inverse_norms


def own_gradients(
    product_gradient: Float[Array, "N K"],
    queries: Float[Array, "N D"],
    negatives: Float[Array, "N K D"],
    precision: Any,
) -> tuple[Float[Array, "N D"], Float[Array, "N K D"]]:
    """Returns the gradients by queries and by own negatives, likewise."""
    of_queries = _dot(*_gradient_operands(product_gradient, negatives), _CONTRACT_OWN, precision)
    queries = queries.astype(product_gradient.dtype)
    return of_queries, product_gradient[:, :, None] * queries[:, None, :]


def project(
    gradient: Float[Array, "*N D"],
    embeddings: Float[Array, "*N D"],
    embedding_inverse_norms: Float[Array, "*N"],
    normalize: bool,
) -> Float[Array, "*N D"]:
    """Accounts for the norms' own dependence on the embeddings: what points along a row drops out."""
    if not normalize:
        return gradient
    unit = embeddings.astype(gradient.dtype) * embedding_inverse_norms[..., None]
    return gradient - unit * jnp.sum(unit * gradient, axis=-1, keepdims=True)


def _gradient_operands(weights: Array, embeddings: Array) -> tuple[Array, Array]:
    # bfloat16 has float32's range, so the weights may be rounded to it; float16 would flush small ones to
    # zero.
    dtype = jnp.bfloat16 if embeddings.dtype == jnp.bfloat16 else weights.dtype
    return weights.astype(dtype), embeddings.astype(dtype)


def _dot(left: Array, right: Array, dimension_numbers: Any, precision: Any) -> Array:
    dtype = accumulator_dtype(left.dtype)
    if precision is None and left.dtype == jnp.float32:
        # The default on GPUs (TF32) and TPUs (one bfloat16 pass) is off by up to 0.2 of a logit at
        # temperature 0.02.
        precision = jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(left, right, dimension_numbers, precision=precision, preferred_element_type=dtype)
