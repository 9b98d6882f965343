"""SigLIP's sigmoid loss as one function call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ega_jax.losses import collectives
from ega_jax.losses.inputs import Options, check, scalar
from ega_jax.losses.kernel import contrastive_loss
from ega_jax.losses.layout import lay_out
from ega_jax.losses.problem import Recipe
from ega_jax.losses.sigmoid import BiasedEmbeddings

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ega_jax.losses.ega import Mask, Scalar


def siglip_loss(
    queries: Float[Array, "N D"],
    targets: Float[Array, "M D"],
    *,
    negatives: Float[Array, "K D"] | Float[Array, "N K D"] | None = None,
    temperature: Scalar = 0.1,
    bias: Scalar = -10.0,
    positives: Int[Array, " N"] | None = None,
    query_ids: Int[Array, " N"] | None = None,
    target_ids: Int[Array, " M"] | None = None,
    mask: Mask = None,
    mask_args: tuple[Any, ...] = (),
    target_mask: Bool[Array, " M"] | None = None,
    weights: Float[Array, " N"] | None = None,
    negative_weights: Float[Array, "N K"] | None = None,
    normalize: bool = True,
    precision: Any = None,
    block_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    exchange: Literal["all_gather", "ring"] = "all_gather",
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Array, ""]:
    """Sigmoid loss of SigLIP (Zhai, Mustafa, Kolesnikov and Beyer 2023, arXiv 2303.15343, equation 2).

    Every pair is a binary classification of its own, with logit `z_ij = s_ij / τ + b`:

        value     1/N Σ_i Σ_j log(1 + exp(-y_ij z_ij))      y = 1 for a query and its positive, -1 for its negatives

    The gradient is the value's derivative. There is no softmax, so a negative's pull does not depend on the others, and
    no direction: the transposed batch has the same loss. It streams, and spreads over meshes, like `ega_loss`.

    Args:
        queries: As in `ega_loss`, and so are all arguments that are not named here.
        targets: Likewise.
        temperature: τ, the inverse of the paper's t = exp(t'), whose initial value is 10. An array is differentiated.
        bias: b, initially -10: most pairs are negatives, and a new model should think so. An array is differentiated.
        query_ids: A target of equal id is neither a negative nor a second positive of the query.
        weights: Weights of rows, that is of a query's pairs with all targets.
        negative_weights: How many times each own negative counts.
        exchange: With `axis_name`: whether each device gathers the columns of all ("all_gather"), or they travel round
            the devices, as in the paper ("ring": O((N + M) D / devices) memory, the same products; no mask array).
        reduction: "mean" divides by the sum of the weights, "sum" does not.

    Whatever the masks say, the positive counts. A query without negatives still has its positive's loss.

    Returns:
        The loss, a float32 scalar (float64 for float64 inputs).

    Raises:
        ValueError: A shape or an option is wrong.
        TypeError: A dtype is wrong, or `mask` closes over a traced array.
    """
    if exchange not in ("all_gather", "ring"):
        raise ValueError(f'exchange must be "all_gather" or "ring", got {exchange!r}')
    if exchange == "ring" and axis_name is None:
        raise ValueError('exchange="ring" needs axis_name, the mesh axes that the ring is made of')
    options = Options(
        negatives=negatives,
        temperature=temperature,
        positives=positives,
        query_ids=query_ids,
        target_ids=target_ids,
        mask=mask,
        mask_args=mask_args,
        target_mask=target_mask,
        weights=weights,
        negative_weights=negative_weights,
        normalize=normalize,
        precision=precision,
        block_size=block_size,
        axis_name=axis_name,
        exchange=exchange,
        reduction=reduction,
    )
    problem, _ = lay_out(check(queries, targets, options), options, Recipe(sigmoid=True), ())
    recipe, embeddings, *others = problem
    biased = BiasedEmbeddings(*embeddings, bias=scalar("bias", bias, embeddings.temperature.dtype))
    loss, _ = contrastive_loss(recipe, *collectives.vary_alike((biased, *others)))
    return loss
