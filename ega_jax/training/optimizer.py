"""AdamW with warm-up, cosine decay, clipping, weight decay on matrices alone, and learning rates by group."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import optax

from ega_jax.training.roles import learning_rate_factors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jax

    from ega_jax.training.config import OptimizerSettings

_DECAYED = re.compile(r".*(^|/)(kernel|lora/[ab])$")


def make_optimizer(
    settings: OptimizerSettings, steps: int | None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer, and its learning rate as a function of the step.

    Args:
      settings: its own.
      steps: of the run. None, where a run is counted in epochs and its data are not read, serves for the shape of the
        state, which is the same at any length.
    """
    steps = steps or 1
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

    def scaled(updates: Mapping[str, jax.Array], parameters: object) -> dict[str, jax.Array]:
        # After AdamW, so that a factor is one on the learning rate: of the step and of the weight decay in it.
        factors = learning_rate_factors(updates, settings.learning_rate_factors)
        return {path: update * factors[path] for path, update in updates.items()}

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
            optax.stateless(scaled),
        ),
        learning_rate,
    )


def decayed(parameters: Mapping[str, jax.Array]) -> dict[str, bool]:
    """Which parameters weight decay applies to: kernels and adapters of linear maps, not norms, biases, embeddings."""
    return {path: _DECAYED.match(path) is not None for path in parameters}
