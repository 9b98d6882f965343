"""How rows and columns of all devices meet: columns are gathered, or travel round a ring."""

from __future__ import annotations

import functools
from typing import Any

import jax

from ega_jax.losses import collectives
from ega_jax.losses.problem import Recipe


def tour(recipe: Recipe, visit: Any, visitors: Any, nothing: Any, merge: Any, bring_home: Any) -> Any:
    """Calls `of_visitors, of_residents = visit(visitors)` until all devices' columns and rows have met.

    Args:
        recipe: Says how.
        visit: What to do.
        visitors: As `receive` returns them.
        nothing: What it returns of nobody.
        merge: Of two results.
        bring_home: Merges over devices what belongs to visitors of all, and returns this device's part.

    Returns:
        The merged results: of this device's own columns, and of its rows.
    """
    if recipe.exchange != "ring":
        of_visitors, of_residents = visit(visitors)
        return jax.tree.map(functools.partial(bring_home, recipe.axis_name), of_visitors), of_residents
    devices = collectives.size(recipe.axis_name)
    to_next = [(device, (device + 1) % devices) for device in range(devices)]

    def hop(state: Any, _: None) -> tuple[Any, None]:
        visitors, so_far = state
        of_visitors, of_residents = merge(so_far, visit(visitors))
        visitors, of_visitors = jax.lax.ppermute((visitors, of_visitors), recipe.axis_name, to_next)
        return (visitors, (of_visitors, of_residents)), None

    return jax.lax.scan(hop, (visitors, nothing), None, length=devices)[0][1]


def receive(recipe: Recipe, home: Any) -> Any:
    """Returns whom to visit first: this device's own on a ring, all at once otherwise."""
    return home if recipe.exchange == "ring" else collectives.gather(recipe.axis_name, home)
