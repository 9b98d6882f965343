"""Which parameters are trained, which are frozen, and which carry an adapter: every one has exactly one role."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from ega_jax.models.functional import Functional
    from ega_jax.training.config import ModelSettings

Leaf = TypeVar("Leaf")

_ADAPTER = re.compile(r"(.*/)lora/[ab]$")


class Role(enum.Enum):
    """What training does with a parameter."""

    TRAINED = "trained"
    ADAPTER = "adapter"
    """The A or B of a low-rank adapter: trained."""
    ADAPTED = "adapted"
    """A kernel that an adapter is added to: frozen."""
    FROZEN = "frozen"

    @property
    def is_trained(self) -> bool:
        """Whether it has a gradient and an optimizer's state."""
        return self in (Role.TRAINED, Role.ADAPTER)


def roles_of(paths: Iterable[str], settings: ModelSettings) -> dict[str, Role]:
    """The role of each parameter.

    Adapters are trained, and with them what `settings.trained` matches; without adapters and `settings.trained`,
    everything is. What `settings.frozen` matches is not trained in any case.

    Args:
      paths: of all parameters of the model, adapters among them.
      settings: regular expressions, matched from the start of the path.

    Raises:
      BadInputError: an expression is not one or matches nothing, two contradict each other, or nothing is trained.
    """
    paths = list(paths)
    adapters = {path for path in paths if _ADAPTER.match(path)}
    adapted = {_ADAPTER.sub(r"\1kernel", path) for path in adapters}
    base = [path for path in paths if path not in adapters]
    frozen = _matches(settings.frozen, paths, "model.frozen")
    trained = _matches(settings.trained, base, "model.trained")
    if both := sorted(frozen & trained):
        raise BadInputError(f"model.frozen and model.trained both match {_some(both)}; narrow one of them")
    if both := sorted(trained & adapted):
        raise BadInputError(f"model.trained matches {_some(both)}, which carry adapters; narrow it or model.lora.paths")
    if both := sorted(frozen & adapters):
        raise BadInputError(f"model.frozen matches the adapters {_some(both)}; narrow it or model.lora.paths")
    if not adapters and not trained:
        trained = {path for path in base if path not in frozen}
    if not adapters and not trained:
        raise BadInputError("model.frozen: nothing is left to train")

    def role(path: str) -> Role:
        if path in adapters:
            return Role.ADAPTER
        if path in trained:
            return Role.TRAINED
        return Role.ADAPTED if path in adapted else Role.FROZEN

    return {path: role(path) for path in paths}


def split(parameters: Mapping[str, Leaf], roles: Mapping[str, Role]) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """Parts parameters into those that are trained and those that are not."""
    trained = {path: value for path, value in parameters.items() if roles[path].is_trained}
    return trained, {path: value for path, value in parameters.items() if path not in trained}


def held_dtypes(functional: Functional, roles: Mapping[str, Role], settings: ModelSettings) -> dict[str, Any]:
    """The type in which each parameter is held.

    Trained ones are float32, for small updates would vanish in less. Frozen matrices are held as
    `settings.frozen_dtype` says, by default in the type of the matrix products: they are cast to it before anything is
    done with them, so that no result changes. Vectors (norms, biases) are few, and stay float32.
    """
    frozen = settings.frozen_dtype or settings.dtype

    def dtype(path: str) -> Any:
        is_matrix = sum(name != "layers" for name in functional.axes[path]) >= 2
        return jnp.dtype(frozen if is_matrix and not roles[path].is_trained else functional.parameters[path].dtype)

    return {path: dtype(path) for path in roles}


def learning_rate_factors(paths: Iterable[str], factors: Mapping[str, float]) -> dict[str, float]:
    """What each trained parameter's learning rate is multiplied by: the factor of the first expression that matches.

    Raises:
      BadInputError: an expression is not one, or decides nothing.
    """
    paths = list(paths)
    found: dict[str, float] = {}
    for pattern, factor in factors.items():
        hits = _matches([pattern], paths, "optimizer.learning_rate_factors") - set(found)
        if not hits:
            raise BadInputError(
                f"optimizer.learning_rate_factors: {pattern!r} comes too late, expressions before it match all it does"
            )
        found |= dict.fromkeys(hits, factor)
    return {path: found.get(path, 1.0) for path in paths}


def role_table(
    parameters: Mapping[str, jax.ShapeDtypeStruct], roles: Mapping[str, Role], factors: Mapping[str, float]
) -> str:
    """Counts and bytes by part of the model, role and learning rate factor, over all devices, to be printed.

    Args:
      parameters: path to shape and held dtype.
      roles: their roles.
      factors: learning rate factors of the trained ones.
    """
    groups: dict[tuple[str, str, str], list[jax.ShapeDtypeStruct]] = {}
    for path, leaf in parameters.items():
        factor = f"{factors[path]:g}" if roles[path].is_trained else "-"
        groups.setdefault((path.partition("/")[0], roles[path].value, factor), []).append(leaf)
    header = ("part", "role", "rate x", "arrays", "parameters", "held", "optimizer")
    rows = [header]
    totals = np.zeros(4, np.int64)
    for (part, role, factor), leaves in sorted(groups.items()):
        size = sum(leaf.size for leaf in leaves)
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        moments = 2 * held if Role(role).is_trained else 0
        totals += (len(leaves), size, held, moments)
        rows.append((part, role, factor, f"{len(leaves)}", f"{size:,}", _bytes(held), _bytes(moments)))
    arrays, size, held, moments = (int(total) for total in totals)
    rows.append(("all", "", "", f"{arrays}", f"{size:,}", _bytes(held), _bytes(moments)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "  ".join(f"{{:{'<' if column < 2 else '>'}{width}}}" for column, width in enumerate(widths))
    return "\n".join(line.format(*row) for row in rows)


def _matches(patterns: Sequence[str], paths: Sequence[str], setting: str) -> set[str]:
    """The paths that some pattern matches from the start; each must match one."""
    found: set[str] = set()
    for pattern in patterns:
        try:
            hits = {path for path in paths if re.match(pattern, path)}
        except re.error as error:
            raise BadInputError(f"{setting}: {pattern!r} is not a regular expression: {error}") from None
        if not hits:
            tops = sorted({path.partition("/")[0] for path in paths})
            raise BadInputError(
                f"{setting}: {pattern!r} matches no parameter; paths look like {min(paths)!r} and begin with "
                f"{', '.join(tops)}"
            )
        found |= hits
    return found


def _some(paths: Sequence[str]) -> str:
    return paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.2f} MB"
