"""From arguments to a loss: check them, lay them out, call the kernel, once a direction."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ega_jax.losses.inputs import Options, check
from ega_jax.losses.kernel import contrastive_loss
from ega_jax.losses.layout import lay_out, transpose
from ega_jax.losses.problem import Recipe
from ega_jax.losses.stats import LossStats

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    Loss = Float[Array, ""] | tuple[Float[Array, ""], LossStats]


def compute_loss(
    queries: Any, targets: Any, options: Options, recipe: Recipe, weight_parameters: tuple[Any, ...] = ()
) -> Loss:
    """Computes the loss of a recipe. See `ega_loss` for the options, what is returned and what is raised."""
    inputs = check(queries, targets, options)
    problem, row_weights = lay_out(inputs, options, recipe, weight_parameters)
    loss, stats = contrastive_loss(*problem)
    if options.symmetric and not problem.recipe.symmetric:
        backward_loss, _ = contrastive_loss(*transpose(problem))
        loss = (loss + backward_loss) / 2
    if stats is None:
        return loss
    return loss, dataclasses.replace(stats, weight=row_weights)
