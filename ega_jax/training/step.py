"""One update: encode both sides in chunks, the loss over the whole batch, gradients, optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from ega_jax.losses import encode_in_chunks, sharded_ega_loss
from ega_jax.models.embedding_model import TOWER_FEATURES
from ega_jax.models.functional import embed_groups
from ega_jax.training.finite import finite_metrics, finite_or_before, non_finite_rows
from ega_jax.training.matryoshka import matryoshka_loss
from ega_jax.training.roles import split
from ega_jax.training.sharding import BATCH, batch_devices, batch_sharding, local_groups, replicated

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array, Bool, Float

    from ega_jax.losses import LossStats
    from ega_jax.models.functional import Functional
    from ega_jax.training.config import LossSettings, TrainConfig
    from ega_jax.training.roles import Role

State = dict[str, Any]
"""`step` (an int32 scalar), `trained` and `frozen` (path to array), `optimizer` (optax's own)."""

Metrics = dict[str, "Array"]

Policy = Callable[..., bool]
"""As in `jax.checkpoint`."""

PERCENTILES = (10, 50, 90)
"""Of a batch's rows, in the metrics: enough to see a distribution move, and cheap enough for every step."""


def train_step(
    state: State,
    batch: Mapping[str, Any],
    *,
    functional: Functional,
    optimizer: optax.GradientTransformation,
    loss: LossSettings,
    mesh: jax.sharding.Mesh,
    keep_frozen_features: bool = True,
) -> tuple[State, Metrics]:
    """The state after one more update, and what the step saw. Pure: jit it with the state donated.

    Args:
      state: from `initial_state`.
      batch: from `ega_jax.data.pipeline`, as global arrays (`to_global`).
      functional, optimizer, loss, mesh: fixed for a run.
      keep_frozen_features: let a tower that is not trained see each picture once, not once more on the way back.
    """
    policy = frozen_features_policy(state["trained"]) if keep_frozen_features else None

    def loss_of(trained: Mapping[str, Array]) -> Any:
        parameters = {**trained, **state["frozen"]}
        sides = batch["queries"], batch["targets"]
        queries, targets = embed_sides(functional.embed, parameters, *sides, mesh, policy=policy)
        value, stats = matryoshka_loss(
            sharded_ega_loss(mesh, BATCH, exchange=loss.exchange),
            queries,
            targets,
            loss.matryoshka_dimensions,
            positives=batch["positives"],
            distinct_positives=True,  # each query's positive has a target row of its own
            query_ids=batch["query_ids"],
            target_ids=batch["target_ids"],
            target_mask=batch["target_mask"],
            weights=batch.get("weights"),
            temperature=loss.temperature,
            alpha=loss.alpha,
            beta=loss.beta,
            hardness=loss.hardness,
            combine=loss.combine,
            symmetric=loss.symmetric,
            false_negative_margin=loss.false_negative_margin,
            normalize=False,  # `embed` returns unit rows
        )
        return value, (stats, non_finite_rows(queries) + non_finite_rows(targets))

    (value, (stats, bad_rows)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state["trained"])
    updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["trained"])
    norms = {"grad_norm": optax.tree.norm(gradients), "update_norm": optax.tree.norm(updates)}
    metrics = {"loss": value, **norms, **hardness_metrics(stats), **finite_metrics(bad_rows, gradients)}
    finite = jnp.isfinite(jnp.stack([value, *norms.values()])).all()
    new = {
        "step": state["step"] + 1,
        "trained": finite_or_before(finite, optax.apply_updates(state["trained"], updates), state["trained"]),
        "frozen": state["frozen"],
        "optimizer": finite_or_before(finite, optimizer_state, state["optimizer"]),
    }
    return new, metrics


def compiled_train_step(
    config: TrainConfig,
    functional: Functional,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    shardings: State,
) -> Any:
    """`train_step` of an experiment under `jax.jit`, with the state written in place: what trains, and what is planned.

    Args:
      config: of the experiment.
      functional, optimizer, mesh: as for `train_step`.
      shardings: where the state lives, before and after.
    """
    step = functools.partial(
        train_step,
        functional=functional,
        optimizer=optimizer,
        loss=config.loss,
        mesh=mesh,
        keep_frozen_features=config.data.keep_frozen_features,
    )
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def embed_sides(
    embed: Callable[[Any, Any], Float[Array, "R D"]],
    parameters: Any,
    queries: Any,
    targets: Any,
    mesh: jax.sharding.Mesh,
    *,
    policy: Policy | None = None,
) -> tuple[Float[Array, "N D"], Float[Array, "M D"]]:
    """`embed_batch` of both sides; in one loop where their shapes are the same, which halves the program to compile.

    Not where each device has one group a side: a loop of two would encode again what now runs once.
    """
    devices, encode = batch_devices(mesh), functools.partial(embed_batch, embed, parameters, mesh=mesh, policy=policy)
    shapes = [jax.tree.map(jnp.shape, side) for side in (queries, targets)]
    groups = jax.tree.leaves(queries)[0].shape[0]
    if shapes[0] != shapes[1] or groups == devices:
        return encode(queries), encode(targets)

    def join(*sides: Array) -> Array:
        # Each device's queries and then its targets, so that nothing moves between devices.
        of_devices = [side.reshape(devices, -1, *side.shape[1:]) for side in sides]
        return jnp.concatenate(of_devices, axis=1).reshape(-1, *sides[0].shape[1:])

    both = encode(jax.tree.map(join, queries, targets))
    both = both.reshape(devices, 2, -1, both.shape[-1])
    return both[:, 0].reshape(-1, both.shape[-1]), both[:, 1].reshape(-1, both.shape[-1])


def embed_batch(
    embed: Callable[[Any, Any], Float[Array, "R D"]],
    parameters: Any,
    inputs: Any,
    mesh: jax.sharding.Mesh,
    *,
    policy: Policy | None = None,
) -> Float[Array, "N D"]:
    """Embeds the groups of a batch, one group a device at a time (GradCache): the gradient is the whole batch's.

    Args:
      embed: (parameters, one group's inputs) -> embeddings of its R rows.
      parameters: of the model.
      inputs: a tree of arrays with leading axis G = rounds x devices, in row order.
      mesh: splits G.
      policy: what is kept for the way back, beside the embeddings.

    Returns:
      N = G R embeddings, in row order.
    """

    def embed_round(parameters: Any, groups: Any) -> Float[Array, "devices R D"]:
        return embed_groups(functools.partial(embed, parameters), groups, mesh=mesh, axes=BATCH)

    embeddings = encode_in_chunks(embed_round, parameters, inputs, chunk_size=batch_devices(mesh), policy=policy)
    return embeddings.reshape(-1, embeddings.shape[-1])


def frozen_features_policy(trained: Iterable[str]) -> Policy | None:
    """What GradCache keeps of its first pass: a tower's features, where they depend on nothing that is trained.

    Args:
      trained: paths of the trained parameters.
    """
    if any(path.startswith("vision_tower/") for path in trained):
        return None
    return jax.checkpoint_policies.save_only_these_names(TOWER_FEATURES)


def hardness_metrics(stats: LossStats) -> Metrics:
    """What EGA did to this batch, named as in `metrics.jsonl`: averages and quantiles over rows."""
    means = stats.means()
    real = stats.weight > 0
    counts = real & (stats.negative_count > 0)
    beaten = counts & (stats.hardest_negative_similarity >= stats.positive_similarity)
    return {
        "hardness/amplification_mean": means["hardest_negative_amplification"],
        "hardness/amplification_max": jnp.max(jnp.where(counts, stats.hardest_negative_amplification, 1.0)),
        "hardness/violations": jnp.sum(beaten) / jnp.maximum(jnp.sum(real), 1),
        "hardness/positive_similarity": means["positive_similarity"],
        "hardness/hardest_negative_similarity": means["hardest_negative_similarity"],
        "hardness/positive_pull": means["positive_pull"],
        "hardness/effective_negatives": means["effective_negatives"],
        **_quantiles(
            {
                "hardness/amplification": stats.hardest_negative_amplification,
                "hardness/positive_similarity": stats.positive_similarity,
                "hardness/hardest_negative_similarity": stats.hardest_negative_similarity,
            },
            counts,
        ),
    }


def _quantiles(values: Mapping[str, Float[Array, " N"]], defined: Bool[Array, " N"]) -> Metrics:
    """`NAME_p10` and so on, over the rows for which they are defined; NaN where there is none."""
    rows = jnp.where(defined, jnp.stack(list(values.values())), jnp.nan)
    found = jnp.nanquantile(rows, jnp.array(PERCENTILES) / 100, axis=1)
    return {f"{name}_p{p}": found[i, j] for i, p in enumerate(PERCENTILES) for j, name in enumerate(values)}


def initial_state(
    parameters: Mapping[str, Array], optimizer: optax.GradientTransformation, roles: Mapping[str, Role]
) -> State:
    """The state before the first step. Works on shapes alone too, under `jax.eval_shape`."""
    trained, frozen = split(parameters, roles)
    return {
        "step": jnp.zeros((), jnp.int32),
        "trained": trained,
        "frozen": frozen,
        "optimizer": optimizer.init(trained),
    }


def state_shardings(abstract_state: State, parameters: Mapping[str, NamedSharding], mesh: jax.sharding.Mesh) -> State:
    """Where each array of the state lives: an optimizer's moments with their parameter, counters on every device."""

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        # optax keeps trees shaped like the parameters inside its own: the last key is then the parameter's path.
        name = str(getattr(path[-1], "key", ""))
        return parameters[name] if name in parameters and leaf.shape else replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def to_global(batch: Mapping[str, Any], mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """This process's arrays of a batch as global ones: inputs split over the batch axes, labels on every device.

    Args:
      batch: from `ega_jax.data.pipeline`, with the groups that `sharding.local_groups` gives this process.
      mesh: the devices.
    """
    devices = batch_devices(mesh)
    share = len(local_groups(mesh, devices))

    def split(x: np.ndarray) -> Array:
        groups = len(x) * devices // share
        places = {group: place for place, group in enumerate(local_groups(mesh, groups))}

        def part(index: Any) -> np.ndarray:
            first, last, _ = index[0].indices(groups)
            return x[places[first] : places[first] + last - first]

        return jax.make_array_from_callback((groups, *x.shape[1:]), batch_sharding(mesh), part)

    return {
        name: jax.tree.map(split, value)
        if name in ("queries", "targets")
        else jax.make_array_from_process_local_data(replicated(mesh), value)
        for name, value in batch.items()
    }
