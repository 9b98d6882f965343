"""AdamW with warm-up, cosine decay, clipping, and weight decay on matrices alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import optax

from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import jax

    from ega_jax.training.config import OptimizerSettings

Leaf = TypeVar("Leaf")

_DECAYED = re.compile(r".*(^|/)kernel$")


def make_optimizer(settings: OptimizerSettings, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer, and its learning rate as a function of the step."""
    warmup = round(settings.warmup * steps)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else settings.learning_rate,
        peak_value=settings.learning_rate,
        warmup_steps=warmup,
        decay_steps=steps,
        end_value=settings.final * settings.learning_rate,
    )
    # Step 0 of a warm-up from zero would change nothing and cost a whole forward and backward pass.
    learning_rate = (lambda count: schedule(count + 1)) if warmup else schedule
    return (
        optax.chain(
            optax.clip_by_global_norm(settings.gradient_clip),
            optax.adamw(
                learning_rate,
                b1=settings.b1,
                b2=settings.b2,
                weight_decay=settings.weight_decay,
                mask=decayed,
            ),
        ),
        learning_rate,
    )


def decayed(parameters: Mapping[str, jax.Array]) -> dict[str, bool]:
    """Which parameters weight decay applies to: the kernels of linear maps, not norms, biases or embeddings."""
    return {path: _DECAYED.match(path) is not None for path in parameters}


def split_frozen(parameters: Mapping[str, Leaf], frozen: Sequence[str]) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """Parts parameters into those that are trained and those that are not.

    Args:
      parameters: path -> array, or its shape.
      frozen: regular expressions, matched from the start of the path.

    Raises:
      BadInputError: an expression is not one, matches nothing, or nothing is left to train.
    """
    still: set[str] = set()
    for pattern in frozen:
        try:
            hits = {path for path in parameters if re.match(pattern, path)}
        except re.error as error:
            raise BadInputError(f"model.frozen: {pattern!r} is not a regular expression: {error}") from None
        if not hits:
            raise BadInputError(f"model.frozen: {pattern!r} matches no parameter; paths look like {min(parameters)!r}")
        still |= hits
    if len(still) == len(parameters):
        raise BadInputError("model.frozen: nothing is left to train")
    trained = {path: value for path, value in parameters.items() if path not in still}
    return trained, {path: parameters[path] for path in still}
