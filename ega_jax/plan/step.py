"""A config's own train step and encoder, to be compiled for hardware that need not be there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ega_jax.data.pipeline import global_groups
from ega_jax.embedder import embed_program
from ega_jax.models.backbones import backbone_of
from ega_jax.models.presets import config_of
from ega_jax.training.optimizer import make_optimizer
from ega_jax.training.setup import functional_model
from ega_jax.training.sharding import batch_devices, batch_sharding, replicated
from ega_jax.training.state import abstract_state
from ega_jax.training.step import State, compiled_train_step

if TYPE_CHECKING:
    from ega_jax.data.buckets import Bucket
    from ega_jax.models.backbone import BackboneConfig
    from ega_jax.training.config import TrainConfig


def model_of(config: TrainConfig) -> BackboneConfig:
    """The model of a config's preset, at the config's resolution."""
    return config_of(config.model.preset).with_resolution(
        max_tiles=config.model.max_tiles, base_only=config.model.base_only, max_pixels=config.model.max_pixels
    )


def lower_step(
    config: TrainConfig, mesh: jax.sharding.Mesh, query: Bucket, target: Bucket
) -> tuple[jax.stages.Lowered, State]:
    """The train step, traced on shapes alone and ready to compile, and the state that it updates."""
    model = model_of(config)
    functional = functional_model(config, model)
    optimizer, _ = make_optimizer(config.optimizer, config.steps)
    state = abstract_state(config, functional, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    batch = abstract_batch(config, model, mesh, query, target)
    return compiled_train_step(config, functional, optimizer, mesh, shardings).lower(state, batch), state


def lower_encoding(config: TrainConfig, mesh: jax.sharding.Mesh, bucket: Bucket) -> tuple[jax.stages.Lowered, State]:
    """What encodes `validation.batch_size` rows between steps, traced in the same way, and the state it stands beside.

    Raises:
      BadInputError: those rows do not divide over the devices.
    """
    model = model_of(config)
    functional = functional_model(config, model)
    state = abstract_state(config, functional, mesh)
    inputs = _abstract_side(model, mesh, bucket, config.validation.batch_size, None)
    return embed_program(functional, mesh).lower({**state["trained"], **state["frozen"]}, inputs), state


def abstract_batch(
    config: TrainConfig, model: BackboneConfig, mesh: jax.sharding.Mesh, query: Bucket, target: Bucket
) -> dict[str, Any]:
    """A batch of `ega_jax.data.pipeline` as shapes, with one positive a query and no hard negatives."""
    rows, chunk = config.data.batch_size, config.data.chunk_size
    labels = {"query_ids": jnp.int32, "target_ids": jnp.int32, "positives": jnp.int32, "target_mask": bool}
    return {
        "queries": _abstract_side(model, mesh, query, rows, chunk),
        "targets": _abstract_side(model, mesh, target, rows, chunk),
        **{name: jax.ShapeDtypeStruct((rows,), dtype, sharding=replicated(mesh)) for name, dtype in labels.items()},
    }


def _abstract_side(
    model: BackboneConfig, mesh: jax.sharding.Mesh, bucket: Bucket, rows: int, chunk: int | None
) -> dict[str, jax.ShapeDtypeStruct]:
    groups = global_groups(batch_devices(mesh), rows, chunk)
    layout, each = backbone_of(model.model_type).layout(model.image), rows // groups
    one = layout.collate([], groups=1, rows=each, length=bucket.tokens, units=each * bucket.units)
    arrays: dict[str, Any] = {name: ((groups, *x.shape[1:]), x.dtype) for name, x in one.items()}
    arrays["input_ids"] = ((groups, each, bucket.tokens), jnp.int32)
    arrays["attention_mask"] = ((groups, each, bucket.tokens), bool)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in arrays.items()
    }


def local_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(
        int(jnp.dtype(leaf.dtype).itemsize) * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves
    )
