"""Trains two small heads on frozen features: many runs in one compiled program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from frozen.methods import METHODS
from frozen.worlds import WIDTH, World

if TYPE_CHECKING:
    from jaxtyping import Array, Float

HIDDEN, EMBEDDING = 64, 64
_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Condition:
    """What training sees.

    Attributes:
        batch: rows a step.
        steps: how many.
        homogeneous: a batch is made of four parts, each of one group.
        negatives: negatives of each query's own, the nearest by frozen features.
        twice: every target of a batch stands in it twice, with two queries (only where targets have several).
        masked: equal targets are no negatives of each other.
        noise: share of the training pairs whose target is another's.
    """

    batch: int = 128
    steps: int = 200
    homogeneous: bool = False
    negatives: int = 0
    twice: bool = False
    masked: bool = True
    noise: float = 0.0


def train(
    world: World, condition: Condition, method: str, settings: Sequence[Mapping[str, float]], seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Trains every setting from every seed.

    Args:
        world: what is learned.
        condition: what training sees.
        method: a name in `METHODS`.
        settings: the tuned scalars of each, and `learning_rate`.
        seeds: each decides weights, batches and noise, whatever the method: runs of one seed are paired.

    Returns:
        Measures of `_measure`, each (settings, seeds).
    """
    names = sorted(settings[0])
    scalars = {name: np.repeat(np.float32([each[name] for each in settings]), len(seeds)) for name in names}
    batches, pairs = (np.stack(each) for each in zip(*[plan(world, condition, seed) for seed in seeds], strict=True))
    which = np.tile(np.arange(len(seeds)), len(settings))
    run = _program(method, condition.masked, condition.negatives)
    arrays = (world.queries, world.targets, world.negatives)
    questions = {
        "validation": world.validation,
        "in_distribution": world.in_distribution,
        "out_of_distribution": world.out_of_distribution,
    }
    asked = {name: (each.queries, each.candidates, each.answers) for name, each in questions.items()}
    parts = []
    for first in range(0, len(which), _AT_ONCE):
        # Always as many, so that one program does for all: the last part is filled up with its last run.
        rows = np.minimum(np.arange(first, first + _AT_ONCE), len(which) - 1)
        own = {name: values[rows] for name, values in scalars.items()}
        seed = which[rows]
        parts.append(jax.device_get(run(arrays, asked, batches[seed], pairs[seed], np.uint32(seeds)[seed], own)))
    return {
        name: np.concatenate([part[name] for part in parts])[: len(which)].reshape(len(settings), len(seeds))
        for name in parts[0]
    }


def plan(world: World, condition: Condition, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of every batch, (steps, batch), and the training pairs they number, (P, 2)."""
    random = np.random.default_rng(seed)
    pairs = world.pairs.copy()
    wrong = random.random(len(pairs)) < condition.noise
    pairs[wrong, 1] = random.permutation(pairs[wrong, 1])
    batches = np.empty((condition.steps, condition.batch), np.int32)
    pools = _pools(world, condition.batch // 4) if condition.homogeneous else []
    sizes = np.array([len(pool) for pool in pools])
    epoch = np.empty(0, np.int32)
    partners = _partners(pairs) if condition.twice else []
    for step in range(condition.steps):
        if condition.homogeneous:
            # Larger groups more often; the same group may come twice, other rows of it.
            chosen = [pools[group] for group in random.choice(len(pools), 4, p=sizes / sizes.sum())]
            batches[step] = np.concatenate(
                [random.choice(pool, condition.batch // 4, replace=False) for pool in chosen]
            )
        elif condition.twice:
            places = random.choice(len(partners), condition.batch // 2, replace=False)
            batches[step] = np.concatenate([random.choice(partners[place], 2, replace=False) for place in places])
        else:
            if len(epoch) < condition.batch:
                epoch = random.permutation(len(pairs)).astype(np.int32)
            batches[step], epoch = epoch[: condition.batch], epoch[condition.batch :]
    return batches, pairs


def _pools(world: World, size: int) -> list[np.ndarray]:
    """Pairs by group; those of groups too small for a part of a batch, together."""
    pools = [np.flatnonzero(world.groups == group) for group in np.unique(world.groups)]
    rest = [pool for pool in pools if len(pool) < size]
    pools = [pool for pool in pools if len(pool) >= size]
    left = np.concatenate(rest) if rest else np.empty(0, np.int64)
    return [*pools, left] if len(left) >= size else pools


def _partners(pairs: np.ndarray) -> list[np.ndarray]:
    """Pairs by target, of targets that have several."""
    rows = [np.flatnonzero(pairs[:, 1] == target) for target in np.unique(pairs[:, 1])]
    return [found for found in rows if len(found) > 1]


@functools.cache
def _program(method: str, masked: bool, num_negatives: int) -> Any:
    loss = METHODS[method].loss

    def run(arrays: Any, asked: Any, batches: Any, pairs: Any, seeds: Any, scalars: Any) -> Any:
        def one(each: tuple[Any, ...]) -> dict[str, Array]:
            return _run(loss, masked, num_negatives, arrays, asked, *each)

        return jax.lax.map(one, (batches, pairs, seeds, scalars))

    return jax.jit(run)


def _run(
    loss: Any,
    masked: bool,
    num_negatives: int,
    arrays: Any,
    asked: dict[str, Any],
    batches: Array,
    pairs: Array,
    seed: Array,
    scalars: dict[str, Array],
) -> dict[str, Array]:
    """One run, from initial weights to scores."""
    queries, targets, negatives = arrays
    parameters = _initialize(seed)
    optimizer = optax.scale_by_adam()
    steps = len(batches)

    def objective(parameters: Any, rows: Array, progress: Array) -> Any:
        query_rows, target_rows = pairs[rows, 0], pairs[rows, 1]
        ids = target_rows if masked else None
        own = _embed(parameters["target"], targets[negatives[rows, :num_negatives]]) if num_negatives else None
        return loss(
            _embed(parameters["query"], queries[query_rows]),
            _embed(parameters["target"], targets[target_rows]),
            {**scalars, "progress": progress},
            negatives=own,
            query_ids=ids,
            target_ids=ids,
        )

    def step(carry: Any, inputs: Any) -> Any:
        parameters, state = carry
        rows, number = inputs
        progress = number / steps
        value, gradients = jax.value_and_grad(objective)(parameters, rows, progress)
        norm = optax.tree.norm(gradients)
        updates, state = optimizer.update(gradients, state)
        # Linear warm-up over a tenth, then cosine decay to zero.
        rate = (
            scalars["learning_rate"] * jnp.minimum(1, 10 * (number + 1) / steps) * (1 + jnp.cos(jnp.pi * progress)) / 2
        )
        parameters = jax.tree.map(lambda p, u: p - rate * u, parameters, updates)
        return (parameters, state), (value, norm)

    carry, (values, norms) = jax.lax.scan(step, (parameters, optimizer.init(parameters)), (batches, jnp.arange(steps)))
    query_vectors, target_vectors = (
        _unit(_embed(carry[0][s], x)) for s, x in (("query", queries), ("target", targets))
    )
    return _measure(asked, query_vectors, target_vectors) | {
        "loss": jnp.mean(values[-steps // 10 :]),
        "gradient_norm": jnp.mean(norms),
        "gradient_norm_spread": jnp.std(norms) / jnp.mean(norms),
        "finite": jnp.all(jnp.isfinite(values)),
    }


def _measure(asked: dict[str, Any], query_vectors: Array, target_vectors: Array) -> dict[str, Array]:
    """hit@1 of each set of questions (ties count as wrong), and the shape of the space on the last of them but one."""
    measures = {}
    for name, (queries, candidates, answers) in asked.items():
        scores = query_vectors[queries] @ target_vectors[candidates].T
        right = jnp.take_along_axis(scores, answers[:, None], axis=1)
        others = scores >= right
        # The right candidate is no worse than itself: more than one means that it lost or tied. NaN is never right.
        measures[name] = jnp.mean((jnp.sum(others, axis=1) == 1) & jnp.isfinite(right[:, 0]))
    queries, candidates, answers = asked["in_distribution"]
    q, t = query_vectors[queries], target_vectors[candidates]
    squares = 2 - 2 * t @ t.T
    off = 1 - jnp.eye(len(t))
    mean = jnp.mean(t, axis=0)
    return measures | {
        # Wang and Isola 2020, arXiv 2005.10242: lower is better of both.
        "alignment": jnp.mean(jnp.sum((q - t[answers]) ** 2, axis=1)),
        "uniformity": jnp.log(jnp.sum(off * jnp.exp(-2 * squares)) / jnp.sum(off)),
        "query_to_mean_target": jnp.mean(q @ mean) / jnp.linalg.norm(mean),
        "mean_target_norm": jnp.linalg.norm(mean),
    }


def _initialize(seed: Array) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(seed), 4)

    def matrix(key: Array, rows: int, columns: int) -> Float[Array, "rows columns"]:
        return jax.random.normal(key, (rows, columns)) / jnp.sqrt(rows)

    return {
        side: {
            "up": matrix(keys[2 * number], WIDTH, HIDDEN),
            "bias": jnp.zeros(HIDDEN),
            "down": matrix(keys[2 * number + 1], HIDDEN, EMBEDDING),
        }
        for number, side in enumerate(("query", "target"))
    }


def _embed(head: Any, features: Float[Array, "... WIDTH"]) -> Float[Array, "... EMBEDDING"]:
    return jax.nn.gelu(features @ head["up"] + head["bias"]) @ head["down"]


def _unit(vectors: Array) -> Array:
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
