"""The one contrastive kernel: a value, and a gradient that need not be its derivative.

Rows are scanned in blocks. A block sees all columns, so its softmax statistics are final at once, and its
rows of the queries' gradient and its share of the targets' come out of the same pass: three matrix products,
no N x M array. The gradient is thus taken in the forward rule and kept as the residual, O((N + M) D); the
backward rule only multiplies it by the cotangent.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import blocks, products
from ega_jax.losses.problem import Columns, Embeddings, Recipe, Rows, Scalars
from ega_jax.losses.row_block import row_block
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


class _Sums(NamedTuple):
    """What is summed over blocks. Gradients are None where none are asked for."""

    loss: Float[Array, ""]
    unit_targets: Float[Array, "M D"] | None
    temperature: Float[Array, ""] | None


def _evaluate(
    recipe: Recipe,
    embeddings: Embeddings,
    rows: Rows,
    columns: Columns,
    scalars: Scalars,
    *,
    with_gradient: bool,
) -> tuple[Float[Array, ""], LossStats | None, Embeddings | None]:
    queries, targets, temperature = embeddings
    num_rows = queries.shape[0]
    target_norms = products.inverse_norms(targets, recipe.normalize)

    def block(queries: Array, rows: Rows) -> tuple[_Sums, tuple[Array | None, LossStats | None]]:
        norms = products.inverse_norms(queries, recipe.normalize)
        similarity = products.similarities(queries, targets, norms, target_norms, recipe.precision)
        result = row_block(recipe, similarity, temperature, rows, columns, scalars, with_gradient=with_gradient)
        loss = jnp.sum(jnp.where(rows.scale != 0, rows.scale * result.loss, 0.0))
        gradient = result.similarity_gradient
        if gradient is None:
            return _Sums(loss, None, None), (None, result.stats)
        of_queries = products.unit_query_gradients(gradient, targets, target_norms, recipe.precision)
        of_targets = products.unit_target_gradients(gradient, queries, norms, recipe.precision)
        of_queries = products.through_norm(of_queries, queries, norms, recipe.normalize)
        return _Sums(loss, of_targets, result.temperature_gradient), (of_queries, result.stats)

    num_blocks = blocks.count_blocks(num_rows, targets.shape[0], recipe.block_size)
    if num_blocks == 1:
        sums, (of_queries, stats) = block(queries, rows)
    else:

        def step(sums: _Sums, inputs: tuple[Array, Rows]) -> Any:
            more, outputs = block(*inputs)
            return jax.tree.map(jnp.add, sums, more), outputs

        inputs = blocks.cut((queries, rows), num_blocks)
        shapes, _ = jax.eval_shape(block, *jax.tree.map(lambda x: x[0], inputs))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        sums, outputs = jax.lax.scan(step, zeros, inputs)
        of_queries, stats = blocks.join(outputs, num_rows)

    if sums.unit_targets is None or of_queries is None:
        return sums.loss, stats, None
    of_targets = products.through_norm(sums.unit_targets, targets, target_norms, recipe.normalize)
    of_temperature = jnp.zeros_like(temperature) if sums.temperature is None else sums.temperature
    return sums.loss, stats, Embeddings(of_queries, of_targets, of_temperature)


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
