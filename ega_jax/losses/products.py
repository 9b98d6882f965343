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


def accumulator_dtype(dtype: Any) -> Any:
    """Returns the dtype of everything past the products: float32, or float64 for float64 embeddings."""
    return jnp.promote_types(dtype, jnp.float32)


def inverse_norms(embeddings: Float[Array, "*N D"], normalize: bool) -> Float[Array, "*N"]:
    """Returns 1 / ‖row‖, 0 for a row of zeros (which is then similar to nothing and gets no gradient)."""
    dtype = accumulator_dtype(embeddings.dtype)
    if not normalize:
        return jnp.ones(embeddings.shape[:-1], dtype)
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


def unit_query_gradients(
    similarity_gradient: Float[Array, "N M"],
    targets: Float[Array, "M D"],
    target_inverse_norms: Float[Array, " M"],
    precision: Any,
) -> Float[Array, "N D"]:
    """Returns the gradient with respect to the normalised queries."""
    weights = similarity_gradient * target_inverse_norms[None, :]
    return _dot(*_gradient_operands(weights, targets), _CONTRACT_COLUMNS, precision)


def unit_target_gradients(
    similarity_gradient: Float[Array, "N M"],
    queries: Float[Array, "N D"],
    query_inverse_norms: Float[Array, " N"],
    precision: Any,
) -> Float[Array, "M D"]:
    """Returns the gradient with respect to the normalised targets."""
    weights = similarity_gradient * query_inverse_norms[:, None]
    return _dot(*_gradient_operands(weights, queries), _CONTRACT_ROWS, precision)


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


def own_unit_gradients(
    similarity_gradient: Float[Array, "N K"],
    queries: Float[Array, "N D"],
    negatives: Float[Array, "N K D"],
    query_inverse_norms: Float[Array, " N"],
    negative_inverse_norms: Float[Array, "N K"],
    precision: Any,
) -> tuple[Float[Array, "N D"], Float[Array, "N K D"]]:
    """Returns the gradients with respect to the normalised queries and the normalised own negatives."""
    weights = similarity_gradient * negative_inverse_norms
    of_queries = _dot(*_gradient_operands(weights, negatives), _CONTRACT_OWN, precision)
    units = queries.astype(similarity_gradient.dtype) * query_inverse_norms[:, None]
    return of_queries, similarity_gradient[:, :, None] * units[:, None, :]


def through_norm(
    unit_gradient: Float[Array, "*N D"],
    embeddings: Float[Array, "*N D"],
    embedding_inverse_norms: Float[Array, "*N"],
    normalize: bool,
) -> Float[Array, "*N D"]:
    """Carries a gradient from normalised rows back to the rows: the part along the row drops out."""
    if not normalize:
        return unit_gradient
    inverse = embedding_inverse_norms[..., None]
    unit = embeddings.astype(unit_gradient.dtype) * inverse
    return inverse * (unit_gradient - unit * jnp.sum(unit * unit_gradient, axis=-1, keepdims=True))


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
