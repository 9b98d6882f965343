"""The one contrastive kernel: a value, and a gradient that need not be its derivative.

The gradient is taken in the forward rule, where the similarities are at hand, and kept as the residual, O((N +
M) D); the backward rule only multiplies it by the cotangent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ega_jax.losses import sigmoid, streaming, two_pass
from ega_jax.losses.problem import Columns, Embeddings, Recipe, Rows, Scalars
from ega_jax.losses.stats import LossStats

if TYPE_CHECKING:
    from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def contrastive_loss(
    recipe: Recipe, embeddings: Embeddings, rows: Rows, columns: Columns, scalars: Scalars
) -> tuple[Float[Array, ""], LossStats | None]:
    """Returns Σ scale_i · loss_i and, if the recipe asks for them, the rows' statistics. See `row_block` for
    the loss.

    Differentiable once, in reverse mode, with respect to `embeddings` alone.
    """
    loss, stats, _ = _evaluate(recipe, embeddings, rows, columns, scalars, with_gradient=False)
    return loss, stats


# Compiled even where the caller is not: op by op, each N x M intermediate would be an array of its own.
@functools.partial(jax.jit, static_argnames=("recipe", "with_gradient"))
def _evaluate(
    recipe: Recipe,
    embeddings: Embeddings,
    rows: Rows,
    columns: Columns,
    scalars: Scalars,
    *,
    with_gradient: bool,
) -> tuple[Float[Array, ""], LossStats | None, Embeddings | None]:
    two_passes = recipe.symmetric or recipe.exchange == "ring"
    evaluate: Callable[..., Any] = two_pass.evaluate if two_passes else streaming.evaluate
    if recipe.sigmoid:
        evaluate = sigmoid.evaluate
    return evaluate(recipe, embeddings, rows, columns, scalars, with_gradient=with_gradient)


def _forward(recipe: Recipe, embeddings: Embeddings, rows: Rows, columns: Columns, scalars: Scalars) -> tuple[Any, Any]:
    loss, stats, gradients = _evaluate(recipe, embeddings, rows, columns, scalars, with_gradient=True)
    # Gradients stay float32 until multiplied by the cotangent; empty arrays remember their dtypes.
    dtypes = jax.tree.map(lambda x: jnp.empty((0,), x.dtype), embeddings)
    return (loss, stats), (_differentiable_once(gradients), dtypes)


def _backward(recipe: Recipe, residual: Any, cotangents: Any) -> tuple[Any, ...]:
    del recipe
    gradients, dtypes = residual
    cotangent, _ = cotangents  # the statistics are detached
    embeddings = jax.tree.map(lambda g, like: (cotangent * g).astype(like.dtype), gradients, dtypes)
    return embeddings, None, None, None


contrastive_loss.defvjp(_forward, _backward)


@jax.custom_vjp
def _differentiable_once(gradients: Any) -> Any:
    """The identity, whose own backward pass is an error, for it would return the derivative of nothing."""
    return gradients


def _refuse(residual: Any, cotangents: Any) -> Any:
    raise NotImplementedError(
        "the losses of ega_jax are differentiable once: EGA's gradient is not the derivative of its value, "
        "so its own derivative means nothing. For second derivatives of InfoNCE, use jax.nn.log_softmax"
    )


_differentiable_once.defvjp(lambda gradients: (gradients, None), _refuse)
