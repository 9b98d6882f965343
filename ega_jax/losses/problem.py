"""What the contrastive kernel is given: the arrays, by row and by column, and the recipe.

Whatever belongs to a query lies in `Rows`, whatever belongs to a target in `Columns`; so the kernel can cut
rows into blocks, and a mesh can gather columns, without knowing what they hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from ega_jax.losses import collectives, hardness

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


class Embeddings(NamedTuple):
    """What the loss is differentiated by."""

    queries: Float[Array, "N D"]
    targets: Float[Array, "M D"]
    temperature: Float[Array, ""]
    own_negatives: Float[Array, "N K D"] | None = None  # of each query alone: K further columns behind the M


class Rows(NamedTuple):
    """What each query brings along. Not differentiated."""

    scale: Float[
        Array, " N"
    ]  # what the row's loss is multiplied by: its weight, over their sum for a mean; 0 = padding
    positives: Int[Array, " N"]  # the position of its positive among the columns; -1 where there is no such column
    numbers: Int[Array, " N"]  # its number, for mask_fn
    keys: tuple[Int[Array, " N"], ...] = ()  # a column that has an equal key is no negative
    mask: Bool[Array, "N M"] | None = None  # False: the pair does not count
    own_weights: Float[Array, "N K"] | None = None  # how many times each own negative counts; 0 = padding


class Columns(NamedTuple):
    """What each target brings along. Not differentiated."""

    positions: Int[Array, " M"]  # its place among the columns of all devices, which Rows.positives refers to
    numbers: Int[Array, " M"]  # its number, for mask_fn
    keys: tuple[Int[Array, " M"], ...] = ()
    has_keys: Bool[Array, " M"] | None = None  # False: its keys equal nothing
    mask: Bool[Array, " M"] | None = None  # False: it is no negative of any row


class Scalars(NamedTuple):
    """Traced values of a recipe. Not differentiated."""

    weight_parameters: tuple[Float[Array, ""], ...] = ()
    false_negative_margin: Float[Array, ""] | None = None
    mask_args: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Which loss: the static choices.

    Attributes:
        log_weight: Weighs the negatives; None weighs all alike, which is InfoNCE.
        weights_add_to_one: A negative's weight is 1 + exp(log_weight), not exp(log_weight).
        combine: Makes `P̄` of the weighted shares.
        log_weight_cap: Upper bound of the log weights, for the combinations that can overflow.
        weighted_value: The value too is that of the weighted distribution, not InfoNCE's.
        top_k: Keep only so many of the most similar negatives of a row.
        sigmoid: Sum SigLIP's loss over pairs, instead of a softmax's over rows.
        mask_fn: The user's (row_numbers, column_numbers, *mask_args) -> keep.
        symmetric: Average with the loss of the opposite direction, in which columns look for their rows. No two rows
            may then have one positive.
        mask_transposed: The rows are the user's columns, as in the target-to-query direction.
        columns_first: Arrays of pairs have columns as leading axis. So both directions of a symmetric loss share
            one array of similarities, and nothing is transposed. Not for own negatives or statistics.
        normalize: Divide out the norms of the embeddings.
        precision: Of the matrix products, as in `jax.lax.dot_general`.
        learnable_temperature: Compute the temperature's cotangent too.
        with_stats: Compute per-row statistics too.
        own_positives: Each row's positive is its own device's column of the same place.
        exchange: How devices see each other's columns: "all_gather" or "ring".
        axis_name: Mesh axes over which rows and columns are spread, inside `jax.shard_map`.
        block_size: How many rows to handle at a time; None decides by the size of the logits.
    """

    log_weight: hardness.LogWeight | None = None
    weights_add_to_one: bool = False
    combine: Callable[[jax.Array, jax.Array], hardness.Amplified] = hardness.normalized
    log_weight_cap: float | None = None
    weighted_value: bool = False
    top_k: int | None = None
    sigmoid: bool = False
    mask_fn: Callable[..., jax.Array] | None = None
    symmetric: bool = False
    mask_transposed: bool = False
    columns_first: bool = False
    normalize: bool = True
    precision: Any = None
    learnable_temperature: bool = False
    with_stats: bool = False
    own_positives: bool = True
    exchange: str = "all_gather"
    axis_name: collectives.AxisName = None
    block_size: int | None = None
