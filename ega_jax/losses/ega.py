"""EGA and InfoNCE as one function call each.

EGA, the Explicit Gradient Amplifier, is from Xue, Li and Liu 2025, "Improve Multi-Modal Embedding Learning
via Explicit Hard Negative Gradient Amplifying" (arXiv 2506.02020).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.losses import hardness as hardness_functions
from ega_jax.losses.compute import compute_loss
from ega_jax.losses.inputs import Options, scalar
from ega_jax.losses.problem import Recipe

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ega_jax.losses.compute import Loss

    Scalar = float | Float[Array, ""]
    Mask = Bool[Array, "N M"] | Callable[..., Array] | None


class Defaults(NamedTuple):
    """Default options of `ega_loss`."""

    alpha: float = 5.0
    beta: float = 1.0
    combine: Literal["normalized", "rebalanced", "unnormalized"] = "normalized"


DEFAULTS = Defaults()


def ega_loss(
    queries: Float[Array, "N D"],
    targets: Float[Array, "M D"],
    *,
    negatives: Float[Array, "K D"] | Float[Array, "N K D"] | None = None,
    temperature: Scalar = 0.02,
    alpha: Scalar = DEFAULTS.alpha,
    beta: Scalar = DEFAULTS.beta,
    hardness: Literal["relative", "absolute"] = "relative",
    combine: Literal["normalized", "rebalanced", "unnormalized"] = DEFAULTS.combine,
    log_weight_cap: float = 20.0,
    positives: Int[Array, " N"] | None = None,
    distinct_positives: bool = False,
    query_ids: Int[Array, " N"] | None = None,
    target_ids: Int[Array, " M"] | None = None,
    mask: Mask = None,
    mask_args: tuple[Any, ...] = (),
    target_mask: Bool[Array, " M"] | None = None,
    weights: Float[Array, " N"] | None = None,
    negative_weights: Float[Array, "N K"] | None = None,
    false_negative_margin: Scalar | None = None,
    top_k: int | None = None,
    symmetric: bool = False,
    normalize: bool = True,
    precision: Any = None,
    block_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    return_stats: bool = False,
) -> Loss:
    """Contrastive loss with InfoNCE's value and EGA's gradient, in which hard negatives pull harder.

    With similarities `s_ij = <q_i, t_j>`, temperature `τ` and InfoNCE's softmax `p_ij` over the columns that
    count,

        value      mean_i -log p_i,positive
        gradient   ∂L/∂s_ij = (P̄_ij - Y_ij) / (τ N)           InfoNCE has p in place of P̄
        weights    w_ij = 1 + β exp(α (s_ij - s_i,positive))   for negatives, hardness="relative"
                   w_ij = 1 + β exp(α (s_ij - 1))              for negatives, hardness="absolute"

    and `P̄` by `combine`:

        "normalized"    w p / Σ w p. In [0, 1]; rows sum to 1; safe for any α, β ≥ 0. It is InfoNCE's gradient
                        under a detached margin of τ log w on each negative.
        "rebalanced"    w p on negatives, 1 - Σ on the positive (which may go below 0). Gradients grow with
                        the weights.
        "unnormalized"  w p on negatives, p on the positive. Every query is then pushed off the mean target:
                        it diverged in a small retrieval run, is there for study, and warns once.

    The paper fixes the shape of this (one P̄ for queries, positives and negatives; hardness relative to the
    positive; no gradient through the hardness), but its full text was not available to us: the formulas are
    a reconstruction, so their choices are options. β = 0 is exactly InfoNCE.

    The gradient is, on purpose, not the derivative of the value. So line searches on the value, `check_grads`
    and second derivatives do not apply. Differentiating twice in reverse raises NotImplementedError; forward
    mode raises JAX's TypeError. A learnable temperature gets the derivative of the value; α, β and weights
    get zero gradients.

    Under `jit` with sharded arrays the loss is that of the global batch, whatever the sharding.

    Args:
        queries: (N, D), any floating dtype; products are taken in this dtype and accumulated in float32, all
            else is float32 (float64 for float64 inputs). bfloat16 embeddings get gradients within 3e-3
            (in norm, at τ ≥ 0.02), of which 1.7e-3 is the rounding of the result.
        targets: (M, D) with M ≥ N. Row i is the positive of query i, unless `positives` says otherwise; all
            others are negatives, so explicit hard negatives may simply follow.
        negatives: (K, D) further negatives, shared by all queries: columns M to M + K - 1. Or (N, K, D), of
            each query alone: those have no column, so no mask or id concerns them, only `negative_weights`.
        temperature: τ > 0. A Python number is a constant; an array is differentiated.
        alpha: α, how fast the weight grows with hardness. May be traced.
        beta: β ≥ 0, how much a negative of hardness 1 (relative: a tie with the positive) gains. May be
            traced.
        hardness: What makes a negative hard.
        combine: How weighted shares become a distribution.
        log_weight_cap: Upper bound of log w for "rebalanced" and "unnormalized", which could overflow. Unused
            by "normalized".
        positives: (N,) integers: the target that is each row's positive. An index outside of the targets
            makes the loss NaN.
        distinct_positives: Promises that no two rows (of nonzero weight) have one target as their positive. A
            symmetric loss of given `positives` then takes four matrix products, not six; and it is NaN if the
            promise is broken. Unused otherwise.
        query_ids: (N,) integers, with `target_ids`: a target is no negative of a query of equal id. A second
            positive is thus left out, not pulled. Duplicate targets in a batch should share an id, or they
            are false negatives.
        target_ids: (M,) or (M + K,) integers. Shared negatives without ids equal nothing.
        mask: (N, M) or (N, M + K) booleans, True where the pair counts; or a function (row_numbers,
            column_numbers, *mask_args) of integer arrays that broadcast to a block of pairs, which returns
            such booleans and closes over no traced array.
        mask_args: Arrays for that function.
        target_mask: (M,) or (M + K,) booleans, False for columns that are no negatives of anyone, such as
            padding; those may hold NaN.
        weights: (N,) non-negative row weights. A row of weight 0 adds neither loss nor gradient, even if it
            holds NaN. Weights that sum to 0 give 0 and zero gradients.
        negative_weights: (N, K) non-negative: how many times each own negative counts, in the value too. One
            of weight 0 is padding and may hold NaN.
        false_negative_margin: Leaves out negatives whose similarity exceeds the positive's by more than this.
        top_k: Keeps only the k most similar negatives of each row (and ties of the last of them) among those
            that the other options leave; in the value too.
        symmetric: Average with the target-to-query loss, in which the positive of each row meets all queries
            (of nonzero weight, and of another positive). Extra columns have no such term.
        normalize: Divide embeddings by their Euclidean norms (a row of zeros stays zero and gets no
            gradient).
        precision: As in `jax.lax.dot_general`. None is exact for float32 embeddings; "high" or "default" are
            faster on GPUs and TPUs, and rough at small temperatures.
        block_size: Rows handled at a time: memory is O(block_size · M + (N + M) D), with one block of all
            rows O(N M). None takes one block while the logits are small. Under `jit` with sharded arrays, a
            block has rows of every device.
        axis_name: Mesh axis or axes, inside `jax.shard_map(..., check_vma=True)`: all arguments are then this
            device's rows and columns, and the loss, that of all devices together, is the same on each.
            Numbers of columns (`positives`, `mask`, `mask_fn`) are global: the targets of all devices in
            device order, then the shared negatives of all. Gradients are those of the one loss, inside
            `shard_map` and outside. Costs one all-gather and, for gradients, one reduce-scatter. See
            `sharded_ega_loss`.
        reduction: "mean" divides by the sum of the weights, "sum" does not.
        return_stats: Also return what happened to each row.

    Whatever the masks say, the positive counts. A row without negatives adds no loss and no gradient.

    Returns:
        The loss, a scalar; with `return_stats`, (loss, LossStats).

    Raises:
        ValueError: A shape or an option is wrong.
        TypeError: A dtype is wrong, or `mask` closes over a traced array.
    """
    recipe, weight_parameters = ega_recipe(hardness, combine, alpha, beta, log_weight_cap)
    options = Options(
        negatives=negatives,
        temperature=temperature,
        positives=positives,
        distinct_positives=distinct_positives,
        query_ids=query_ids,
        target_ids=target_ids,
        mask=mask,
        mask_args=mask_args,
        target_mask=target_mask,
        weights=weights,
        negative_weights=negative_weights,
        false_negative_margin=false_negative_margin,
        top_k=top_k,
        symmetric=symmetric,
        normalize=normalize,
        precision=precision,
        block_size=block_size,
        axis_name=axis_name,
        reduction=reduction,
        return_stats=return_stats,
    )
    return compute_loss(queries, targets, options, recipe, weight_parameters)


def info_nce_loss(
    queries: Float[Array, "N D"],
    targets: Float[Array, "M D"],
    *,
    negatives: Float[Array, "K D"] | Float[Array, "N K D"] | None = None,
    temperature: Scalar = 0.02,
    positives: Int[Array, " N"] | None = None,
    distinct_positives: bool = False,
    query_ids: Int[Array, " N"] | None = None,
    target_ids: Int[Array, " M"] | None = None,
    mask: Mask = None,
    mask_args: tuple[Any, ...] = (),
    target_mask: Bool[Array, " M"] | None = None,
    weights: Float[Array, " N"] | None = None,
    negative_weights: Float[Array, "N K"] | None = None,
    false_negative_margin: Scalar | None = None,
    top_k: int | None = None,
    symmetric: bool = False,
    normalize: bool = True,
    precision: Any = None,
    block_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    return_stats: bool = False,
) -> Loss:
    """InfoNCE (van den Oord, Li and Vinyals 2018, arXiv 1807.03748): value and gradient.

    `ega_loss` with β = 0; it describes all arguments, results and errors.
    """
    options = Options(
        negatives=negatives,
        temperature=temperature,
        positives=positives,
        distinct_positives=distinct_positives,
        query_ids=query_ids,
        target_ids=target_ids,
        mask=mask,
        mask_args=mask_args,
        target_mask=target_mask,
        weights=weights,
        negative_weights=negative_weights,
        false_negative_margin=false_negative_margin,
        top_k=top_k,
        symmetric=symmetric,
        normalize=normalize,
        precision=precision,
        block_size=block_size,
        axis_name=axis_name,
        reduction=reduction,
        return_stats=return_stats,
    )
    return compute_loss(queries, targets, options, Recipe())


def ega_recipe(
    hardness: str = "relative",
    combine: str = DEFAULTS.combine,
    alpha: Any = DEFAULTS.alpha,
    beta: Any = DEFAULTS.beta,
    log_weight_cap: float = 20.0,
) -> tuple[Recipe, tuple[Array, ...]]:
    """Returns what makes the kernel compute EGA: a recipe, and the parameters of its log-weight function."""
    if hardness not in hardness_functions.HARDNESS:
        raise ValueError(f"hardness must be one of {list(hardness_functions.HARDNESS)}, got {hardness!r}")
    if combine not in hardness_functions.COMBINE:
        raise ValueError(f"combine must be one of {list(hardness_functions.COMBINE)}, got {combine!r}")
    if not isinstance(log_weight_cap, (int, float)):
        raise TypeError(f"log_weight_cap must be a Python number, got {type(log_weight_cap).__name__}")
    if not log_weight_cap > 0:
        raise ValueError(f"log_weight_cap must be positive, for log weights are, got {log_weight_cap}")
    if isinstance(beta, (int, float)):
        if not beta >= 0:
            raise ValueError(f"beta must not be negative, got {beta}")
        if beta == 0:
            return Recipe(), ()
    if combine == "unnormalized":
        _warn_of_unnormalized()
    recipe = Recipe(
        log_weight=hardness_functions.HARDNESS[hardness],
        weights_add_to_one=True,
        combine=hardness_functions.COMBINE[combine],
        log_weight_cap=None if combine == "normalized" else log_weight_cap,
    )
    # Stopped first: the logarithm's derivative at β = 0 would turn a zero gradient into NaN.
    alpha, beta = jax.lax.stop_gradient((alpha, beta))
    return recipe, (scalar("alpha", alpha, jnp.float32), jnp.log(scalar("beta", beta, jnp.float32)))


@functools.cache
def _warn_of_unnormalized() -> None:
    warnings.warn(
        'combine="unnormalized" pushes every query off the mean target and diverged where we tried it; '
        '"normalized" and "rebalanced" do not',
        stacklevel=4,
    )
