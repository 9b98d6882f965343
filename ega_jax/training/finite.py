"""Numbers that are no longer finite: which step, which rows, which part of the model, and whether to go on.

The step itself keeps its weights where the loss, the gradient or the update is infinite or NaN, so that no such number
ever reaches the state or a checkpoint. What the host does about it is a setting, looked at when metrics are read.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from jaxtyping import Array, Bool, Float, Int

    from ega_jax.data.pipeline import TrainingBatches
    from ega_jax.training.config import OptimizerSettings

PREFIX = "non_finite/"
"""Of metrics that are for this file alone."""

_EMBEDDINGS = PREFIX + "embeddings"
_WATCHED = ("loss", "grad_norm", "update_norm")
_MOST_IN_A_ROW = 10
_ROWS_TOLD = 4
_STACK = re.compile(r"(.*/layers)/")


def finite_or_before(finite: Bool[Array, ""], new: Any, before: Any) -> Any:
    """`new` where the step was finite, else `before`; counters go on, and with them the schedule of learning rates."""

    def choose(new: Array, before: Array) -> Array:
        return jnp.where(finite, new, before) if jnp.issubdtype(new.dtype, jnp.inexact) else new

    return jax.tree.map(choose, new, before)


def non_finite_rows(embeddings: Float[Array, "N D"]) -> Int[Array, ""]:
    """How many embeddings are not finite."""
    return jnp.sum(~jnp.isfinite(embeddings).all(axis=-1))


def finite_metrics(bad_rows: Int[Array, ""], gradients: Mapping[str, Array]) -> dict[str, Array]:
    """Where the numbers of a step are not finite, as scalars: 0 each where all is well.

    Args:
      bad_rows: embeddings of queries and targets that are not.
      gradients: by the path of the parameter.

    Returns:
      The number of embeddings, and of every module the layer nearest the loss, from 1, whose gradient is
      not (1 for a module without layers). On its way back a bad number spoils all layers before the one it arose in.
    """
    found: dict[str, Any] = {_EMBEDDINGS: bad_rows}
    for path, gradient in gradients.items():
        stack = _STACK.match(path)
        name = PREFIX + (stack[1] if stack else path.partition("/")[0])
        # No reshaping: the axes may be split over devices.
        squares = jnp.sum(jnp.square(gradient.astype(jnp.float32)), axis=range(1 if stack else 0, gradient.ndim))
        layer = 1 + jnp.arange(len(gradient)) if stack else 1
        last = jnp.max(jnp.where(jnp.isfinite(squares), 0, layer))
        found[name] = jnp.maximum(found.get(name, 0), last)
    return found


class TrainingError(RuntimeError):
    """Training cannot go on: the numbers are no longer finite."""


class FiniteWatch:
    """Looks, when metrics are read, at every step since the last look, and does what `optimizer.on_non_finite` says."""

    def __init__(
        self, settings: OptimizerSettings, batches: TrainingBatches, file: Path, note: Callable[[str], None]
    ) -> None:
        """
        Args:
          settings: says whether to stop or to skip.
          batches: knows the rows of a step.
          file: gets a line of JSON for each such step: all rows of its batch, and what was found.
          note: is told of each.
        """
        self._settings, self._batches, self._file, self._note = settings, batches, file, note
        self._unread: list[tuple[int, Mapping[str, Any]]] = []
        self._in_a_row = 0

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Metrics of a step, which may not have been computed yet."""
        names = [name for name in metrics if name in _WATCHED or name.startswith(PREFIX)]
        self._unread.append((step, {name: metrics[name] for name in names}))

    def look(self) -> int:
        """How many steps were skipped since the last look.

        Raises:
          TrainingError: one step was not finite and the run is to stop, or so many in a row that the weights must be at
            fault.
        """
        skipped = 0
        unread, self._unread = self._unread, []
        for step, metrics in unread:
            values = {name: float(value) for name, value in metrics.items()}
            if all(math.isfinite(values[name]) for name in _WATCHED):
                self._in_a_row = 0
                continue
            skipped, self._in_a_row = skipped + 1, self._in_a_row + 1
            told = self._tell(step, values)
            if self._settings.on_non_finite == "stop":
                raise TrainingError(f"{told}. {_CURE}, or skip such steps: optimizer.on_non_finite=skip")
            if self._in_a_row >= _MOST_IN_A_ROW:
                raise TrainingError(f"{told}, as in the {_MOST_IN_A_ROW - 1} steps before. {_CURE}")
            self._note(f"{told}. The step is skipped")
        return skipped

    def _tell(self, step: int, values: Mapping[str, float]) -> str:
        first = next(name for name in _WATCHED if not math.isfinite(values[name]))
        where = likely_module(values)
        rows = [f"{file}:{row}" for file, row in self._batches.rows_of(step - 1)]
        if jax.process_index() == 0:
            with self._file.open("a") as file:
                watched = {name: str(values[name]) for name in _WATCHED}
                file.write(json.dumps({"step": step, **watched, "where": where, "rows": rows}) + "\n")
        some = ", ".join(rows[:_ROWS_TOLD])
        return f"{first} is {values[first]} at step {step}, {where}; rows {some}, ... (all of them in {self._file})"


def likely_module(values: Mapping[str, float]) -> str:
    """Where the first number that is not finite arose, as far as `finite_metrics` can tell."""
    if values[_EMBEDDINGS]:
        return f"in the forward pass ({values[_EMBEDDINGS]:.0f} embeddings are not finite)"
    broken = {name.removeprefix(PREFIX): int(value) for name, value in values.items() if name.startswith(PREFIX)}
    broken = {name: layer for name, layer in broken.items() if layer}
    if not broken:
        return "though loss and gradient of every module are finite"
    # Gradients come from the loss through the language model to the projector and the tower.
    name = min(broken, key=lambda name: (not name.startswith("language_model"), not name.startswith("projector")))
    layer = f", layer {broken[name]}" if name.endswith("/layers") else ""
    return f"likely in the backward pass of {name}{layer}"


_CURE = "Lower optimizer.learning_rate or raise loss.temperature; the checkpoints hold the steps before"
