"""The losses over a mesh, for arrays that hold the global batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ega_jax.losses.compute import compute_loss
from ega_jax.losses.ega import ega_recipe
from ega_jax.losses.inputs import Options
from ega_jax.losses.siglip import siglip_loss
from ega_jax.losses.stats import LossStats

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Options of EGA alone.
_EGA = ("hardness", "combine", "alpha", "beta", "log_weight_cap")
# Options whose leading axis is that of the queries or of the targets.
_SHARDED = (
    "negatives",
    "positives",
    "query_ids",
    "target_ids",
    "mask",
    "target_mask",
    "weights",
    "negative_weights",
)
# Other arrays, of which each device has all.
_REPLICATED = ("temperature", "bias", "alpha", "beta", "false_negative_margin", "mask_args")


def sharded_ega_loss(
    mesh: jax.sharding.Mesh,
    axes: str | tuple[str, ...] = ("data", "fsdp"),
    exchange: str = "all_gather",
    **options: Any,
) -> Callable[..., Float[Array, ""] | tuple[Float[Array, ""], LossStats]]:
    """Makes an `ega_loss` whose rows and columns are spread over the devices of a mesh.

    Equal to `ega_loss` of the same global arrays, in value, gradients and statistics. By `exchange`:

        "all_gather"  Each device gathers the columns of all, streams its rows over them, and gets back the
                      summed gradient of its own columns: one all-gather, one reduce-scatter, one all-reduce;
                      O(M D) memory a device, besides one block of logits.
        "ring"        Columns travel round the devices, once for the sums and once, with their gradients, for
                      the gradients: one more matrix product, O((N + M) D / devices) memory. For when the
                      columns of all do not fit. Takes no `top_k` and no mask array.

        loss_fn = sharded_ega_loss(mesh, ("data", "fsdp"), temperature=0.02)
        loss = loss_fn(queries, targets, weights=weights)

    Args:
        mesh: Of Auto or Explicit axes.
        axes: Mesh axes that rows and columns are sharded over, in this order; the loss is replicated over
            others.
        exchange: "all_gather" or "ring".
        **options: Of `ega_loss`, but for `axis_name`; array-valued ones may as well be passed with each call.

    Returns:
        A function (queries, targets, **options) of global arrays, whose options override those given here.
        The lengths N, M and (of shared negatives) K must be divisible by the number of devices of `axes`: pad
        rows with weight 0 and columns with a False `target_mask`.

    Raises:
        ValueError: An axis is not of the mesh, or a choice is wrong.
    """
    return _sharded(_local_ega_loss, mesh, axes, exchange, options)


def sharded_siglip_loss(
    mesh: jax.sharding.Mesh,
    axes: str | tuple[str, ...] = ("data", "fsdp"),
    *,
    exchange: str = "all_gather",
    **options: Any,
) -> Callable[..., Float[Array, ""]]:
    """As `sharded_ega_loss`, of `siglip_loss` and its options. The ring costs no further matrix product."""
    return _sharded(_local_siglip_loss, mesh, axes, exchange, options)


def _local_ega_loss(queries: Array, targets: Array, *, axis_name: Any, exchange: str, **given: Any) -> Any:
    recipe = ega_recipe(**{name: given.pop(name) for name in _EGA if name in given})
    return compute_loss(queries, targets, Options(**given, axis_name=axis_name, exchange=exchange), *recipe)


def _local_siglip_loss(queries: Array, targets: Array, *, distinct_positives: bool = False, **given: Any) -> Any:
    del distinct_positives  # which matters to a second direction, and this loss has one
    return siglip_loss(queries, targets, **given)


def _sharded(
    local_loss: Callable[..., Any],
    mesh: jax.sharding.Mesh,
    axes: str | tuple[str, ...],
    exchange: str,
    options: dict[str, Any],
) -> Callable[..., Any]:
    axes = (axes,) if isinstance(axes, str) else tuple(axes)
    missing = [axis for axis in axes if axis not in mesh.shape]
    if missing or not axes:
        raise ValueError(f"axes {missing or axes} are not among the mesh's {tuple(mesh.shape)}")
    if exchange not in ("all_gather", "ring"):
        raise ValueError(f'exchange must be "all_gather" or "ring", got {exchange!r}')
    if "axis_name" in options:
        raise ValueError("axis_name is set from axes")
    num_devices = math.prod(mesh.shape[axis] for axis in axes)
    by_row, replicated = PartitionSpec(axes), PartitionSpec()

    def loss_fn(queries: Array, targets: Array, **more: Any) -> Any:
        arrays, static = _split({"queries": queries, "targets": targets, **options, **more})
        specs = {name: replicated if name in _REPLICATED else by_row for name in arrays}
        for name, value in arrays.items():
            if specs[name] is by_row:
                _check_divisible(name, value, num_devices)
            if AxisType.Explicit in mesh.axis_types:
                arrays[name] = jax.reshard(value, NamedSharding(mesh, specs[name]))

        def on_device(arrays: dict[str, Any]) -> Any:
            for name in ("target_ids", "target_mask"):
                if isinstance(arrays.get(name), tuple):  # of targets and of shared negatives
                    arrays[name] = jnp.concatenate(arrays[name])
            return local_loss(**arrays, **static, axis_name=axes, exchange=exchange)

        out_specs = (replicated, by_row) if static.get("return_stats") else replicated
        return jax.shard_map(on_device, mesh=mesh, in_specs=(specs,), out_specs=out_specs)(arrays)

    return loss_fn


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separates what `shard_map` must see from what is static."""
    arrays, static = {}, {}
    for name, value in options.items():
        is_array = name in ("queries", "targets", *_SHARDED) and value is not None and not callable(value)
        if is_array or (name in _REPLICATED and not isinstance(value, (int, float, type(None)))):
            arrays[name] = jax.tree.map(jnp.asarray, value)
        else:
            static[name] = value
    num_rows, num_targets = arrays["queries"].shape[0], arrays["targets"].shape[0]
    if "positives" not in arrays and num_targets > num_rows:
        # Then the positive of a row lies, as a rule, on another device than the row.
        arrays["positives"] = jnp.arange(num_rows, dtype=jnp.int32)
        static["distinct_positives"] = True
    for name in ("target_ids", "target_mask"):
        if name in arrays and arrays[name].shape[0] > num_targets:
            arrays[name] = (arrays[name][:num_targets], arrays[name][num_targets:])
    return arrays, static


def _check_divisible(name: str, value: Any, num_devices: int) -> None:
    for array in jax.tree.leaves(value):
        if array.shape[0] % num_devices:
            raise ValueError(
                f"{name} of length {array.shape[0]} cannot be spread evenly over {num_devices} devices: pad with rows "
                "of weight 0 and columns whose target_mask is False"
            )
