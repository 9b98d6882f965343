"""The losses that are compared, each with the settings that are tuned.

Every method is a function of embeddings and of a dictionary of scalars; the scalars are traced, so that one compiled
program trains with many settings. `progress` is among them: the share of the training that is done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ega_jax import ega_loss, info_nce_loss
from ega_jax.losses import hardness_weighted_loss, siglip_loss, unime_loss

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

Scalars = Mapping[str, Any]
Loss = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Method:
    """A loss and what is tuned of it.

    Attributes:
        title: for tables.
        loss: of queries (N, D), targets (N, D), the scalars, and by keyword `negatives` (N, K, D) or None,
            `query_ids` and `target_ids` (N,) or None.
        tuned: names of its scalars, beside the learning rate.
        needs_negatives: it differs from another method only where queries have negatives of their own.
    """

    title: str
    loss: Loss
    tuned: tuple[str, ...]
    needs_negatives: bool = False


def control_loss(
    queries: Float[Array, "N D"],
    targets: Float[Array, "N D"],
    scalars: Scalars,
    *,
    negatives: Float[Array, "N K D"] | None = None,
    query_ids: Int[Array, " N"] | None = None,
    target_ids: Int[Array, " N"] | None = None,
) -> Float[Array, ""]:
    """InfoNCE at the temperature that EGA's relative hardness amounts to, if its weights lose their `1 +`.

    With w = β exp(α (s - s_pos)), softmax(s/τ + log w) is a softmax at τ' = τ/(1 + ατ) with a margin of log β on the
    logits of negatives; its gradient is scaled by 1/τ and not 1/τ'. What EGA gains over this, it owes to more than a
    lower temperature.
    """
    temperature = scalars["temperature"]
    matched = temperature / (1 + scalars["alpha"] * temperature)
    queries, targets = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (queries, targets))
    logits = queries @ targets.T / matched
    own = jnp.eye(len(queries), dtype=bool)
    if query_ids is not None and target_ids is not None:
        logits = jnp.where((query_ids[:, None] == target_ids) & ~own, -jnp.inf, logits)
    if negatives is not None:
        negatives = negatives / jnp.linalg.norm(negatives, axis=-1, keepdims=True)
        logits = jnp.concatenate([logits, jnp.einsum("nd,nkd->nk", queries, negatives) / matched], axis=1)
        own = jnp.pad(own, ((0, 0), (0, negatives.shape[1])))
    logits = logits + jnp.where(own, 0, jnp.log(scalars["beta"]))
    rows = jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits)
    return matched / temperature * jnp.mean(rows)


def _ega(combine: Any, hardness: Any, late: bool = False) -> Loss:
    def loss(queries: Any, targets: Any, scalars: Scalars, **options: Any) -> Any:
        beta = scalars["beta"] * (scalars["progress"] if late else 1)
        alpha, temperature = scalars["alpha"], scalars["temperature"]
        return ega_loss(
            queries,
            targets,
            temperature=temperature,
            alpha=alpha,
            beta=beta,
            hardness=hardness,
            combine=combine,
            **options,
        )

    return loss


def _info_nce(queries: Any, targets: Any, scalars: Scalars, **options: Any) -> Any:
    return info_nce_loss(queries, targets, temperature=scalars["temperature"], **options)


def _hardness_weighted(mode: Any) -> Loss:
    def loss(queries: Any, targets: Any, scalars: Scalars, **options: Any) -> Any:
        return hardness_weighted_loss(
            queries, targets, mode=mode, strength=scalars["alpha"], temperature=scalars["temperature"], **options
        )

    return loss


def _unime(queries: Any, targets: Any, scalars: Scalars, **options: Any) -> Any:
    return unime_loss(
        queries,
        targets,
        top_k=8,
        false_negative_margin=scalars["margin"],
        temperature=scalars["temperature"],
        **options,
    )


def _siglip(queries: Any, targets: Any, scalars: Scalars, **options: Any) -> Any:
    return siglip_loss(queries, targets, temperature=scalars["temperature"], bias=-scalars["bias"], **options)


_EGA = ("temperature", "alpha", "beta")
METHODS: dict[str, Method] = {
    "info_nce": Method("InfoNCE", _info_nce, ("temperature",)),
    "control": Method("InfoNCE at EGA's temperature, with margin", control_loss, _EGA),
    "ega_normalized": Method("EGA normalized", _ega("normalized", "relative"), _EGA),
    "ega_normalized_late": Method("EGA normalized, β rising from 0", _ega("normalized", "relative", late=True), _EGA),
    "ega_rebalanced": Method("EGA rebalanced", _ega("rebalanced", "relative"), _EGA),
    "ega_unnormalized": Method("EGA unnormalized", _ega("unnormalized", "relative"), _EGA),
    "ega_normalized_absolute": Method("EGA normalized, absolute", _ega("normalized", "absolute"), _EGA),
    "ega_rebalanced_absolute": Method("EGA rebalanced, absolute", _ega("rebalanced", "absolute"), _EGA),
    "ega_unnormalized_absolute": Method("EGA unnormalized, absolute", _ega("unnormalized", "absolute"), _EGA),
    "llave": Method("LLaVE (all negatives by hardness)", _hardness_weighted("all_negatives"), ("temperature", "alpha")),
    "hard_in_batch": Method(
        "sentence-transformers, in-batch negatives",
        _hardness_weighted("in_batch_negatives"),
        ("temperature", "alpha"),
        needs_negatives=True,
    ),
    "hard_own": Method(
        "sentence-transformers, hard negatives",
        _hardness_weighted("hard_negatives"),
        ("temperature", "alpha"),
        needs_negatives=True,
    ),
    "unime": Method("UniME (8 hardest, margin)", _unime, ("temperature", "margin")),
    "siglip": Method("SigLIP", _siglip, ("temperature", "bias")),
}
