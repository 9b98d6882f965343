"""Published relatives of EGA: the same kernel with other weights, in the value too.

Each is the InfoNCE of reweighted negatives, and its gradient is the derivative of its value with the weights
held constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from ega_jax.losses import hardness
from ega_jax.losses.compute import compute_loss
from ega_jax.losses.ega import info_nce_loss
from ega_jax.losses.inputs import Options, scalar
from ega_jax.losses.problem import Recipe

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from ega_jax.losses.compute import Loss

HardnessMode = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]


def hardness_weighted_loss(
    queries: Float[Array, "N D"],
    targets: Float[Array, "M D"],
    *,
    mode: HardnessMode = "all_negatives",
    strength: float | Float[Array, ""] = 5.0,
    **options: Any,
) -> Loss:
    """InfoNCE whose negatives weigh exp(strength · s), as sentence-transformers' `hardness_mode` has it.

    Adds `strength · stop_gradient(s)` to the logits of negatives. The library's "hard negatives" are here the
    negatives that belong to one query alone, `negatives` of shape (N, K, D). (There they serve the other
    queries of the batch too; here no.)

    Args:
        queries: As in `ega_loss`.
        targets: As in `ega_loss`.
        mode: Which negatives gain: those shared by all queries, as in LLaVE ("in_batch_negatives"); those of
            each query's own, as in EmbeddingGemma (arXiv 2509.20354, strength 5; "hard_negatives"); or both
            ("all_negatives").
        strength: How much. May be traced; it gets a zero gradient.
        **options: Of `info_nce_loss`.

    Returns:
        As `ega_loss`; the value is that of the reweighted distribution.

    Raises:
        ValueError: As `ega_loss`, or the mode is unknown.
        TypeError: As `ega_loss`, or an option is unknown.
    """
    if mode not in ("in_batch_negatives", "hard_negatives", "all_negatives"):
        raise ValueError(f'mode must be "in_batch_negatives", "hard_negatives" or "all_negatives", got {mode!r}')
    strength = jax.lax.stop_gradient(scalar("strength", strength, jnp.float32))
    recipe = Recipe(log_weight=hardness.by_origin, weighted_value=True)
    shared = strength * (mode != "hard_negatives")
    own = strength * (mode != "in_batch_negatives")
    return compute_loss(queries, targets, Options(**options), recipe, (shared, own))


def llave_loss(
    queries: Float[Array, "N D"],
    targets: Float[Array, "M D"],
    *,
    alpha: float | Float[Array, ""] = 9.0,
    symmetric: bool = True,
    **options: Any,
) -> Loss:
    """Hardness-weighted contrastive loss of LLaVE (Lan et al. 2025, arXiv 2503.04812, equation 5).

    Every negative weighs exp(α s), in both directions: `hardness_weighted_loss` of all negatives, with the
    paper's α = 9.
    """
    return hardness_weighted_loss(queries, targets, strength=alpha, symmetric=symmetric, **options)


def unime_loss(
    queries: Float[Array, "N D"],
    targets: Float[Array, "M D"],
    *,
    top_k: int | None = 8,
    false_negative_margin: float | Float[Array, ""] | None = 0.1,
    **options: Any,
) -> Loss:
    """InfoNCE over the hardest negatives, as in the second stage of UniME (Gu et al. 2025, arXiv 2504.17432).

    Leaves out negatives that beat the positive by more than a margin, for they may be true, and keeps the
    `top_k` most similar of the others. (The published code can bring masked negatives back where fewer than
    `top_k` are left; this does not.)
    """
    return info_nce_loss(queries, targets, top_k=top_k, false_negative_margin=false_negative_margin, **options)
