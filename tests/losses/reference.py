"""The losses by definition, in float64 numpy, row by row: slow, plain, sharing no code with the library."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class Reference:
    """Value, gradients and statistics of a loss."""

    loss: float
    queries: np.ndarray
    targets: np.ndarray
    temperature: float
    negatives: np.ndarray | None
    row_loss: np.ndarray
    probabilities: np.ndarray  # P̄ of the query-to-target direction, 0 where a pair does not count
    similarity_gradient: np.ndarray
    stats: dict[str, np.ndarray]


def ega(
    queries,
    targets,
    *,
    negatives=None,
    negative_weights=None,
    temperature=0.02,
    alpha=5.0,
    beta=1.0,
    hardness="relative",
    combine="normalized",
    log_weight_cap=20.0,
    positives=None,
    query_ids=None,
    target_ids=None,
    mask=None,
    target_mask=None,
    weights=None,
    false_negative_margin=None,
    top_k=None,
    weighted_value=False,
    symmetric=False,
    normalize=True,
    reduction="mean",
) -> Reference:
    """InfoNCE's value and EGA's gradient. `mask` is a boolean array here."""
    queries = np.asarray(queries, np.float64)
    targets = np.asarray(targets, np.float64)
    num_rows, num_targets = len(queries), len(targets)
    own = None
    if negatives is not None and np.ndim(negatives) == 3:
        own = np.asarray(negatives, np.float64)
    elif negatives is not None:
        targets = np.concatenate([targets, np.asarray(negatives, np.float64)])
    num_columns = len(targets)
    positives = np.arange(num_rows) if positives is None else np.asarray(positives)
    weights = np.ones(num_rows) if weights is None else np.asarray(weights, np.float64)
    total = weights.sum() if reduction == "mean" else 1.0

    keep = np.ones((num_rows, num_columns), bool)
    for i in range(num_rows):
        for j in range(num_columns):
            if target_mask is not None and j < len(target_mask) and not target_mask[j]:
                keep[i, j] = False
            if query_ids is not None and j < len(target_ids) and query_ids[i] == target_ids[j]:
                keep[i, j] = False
            if mask is not None and j < mask.shape[1] and not mask[i, j]:
                keep[i, j] = False
    # The target-to-query direction: row i's positive against every query that counts.
    keep_back = np.zeros((num_rows, num_rows), bool)
    for i in range(num_rows):
        for k in range(num_rows):
            column = positives[i]
            pair_counts = mask is None or column >= mask.shape[1] or mask[k, column]
            same_id = query_ids is not None and query_ids[k] == target_ids[column]
            keep_back[i, k] = pair_counts and not same_id and weights[k] > 0 and positives[k] != positives[i]

    live = weights > 0
    used = np.ones(num_columns, bool)
    if target_mask is not None:
        used[: len(target_mask)] = target_mask
        used[positives[live]] = True
    queries = np.where(live[:, None], queries, 0.0)
    targets = np.where(used[:, None], targets, 0.0)
    query_norms = np.linalg.norm(queries, axis=1) if normalize else np.ones(num_rows)
    target_norms = np.linalg.norm(targets, axis=1) if normalize else np.ones(num_columns)
    query_norms[query_norms == 0] = np.inf
    target_norms[target_norms == 0] = np.inf
    unit_queries = queries / query_norms[:, None]
    unit_targets = targets / target_norms[:, None]

    options = {
        "temperature": temperature,
        "alpha": alpha,
        "beta": beta,
        "hardness": hardness,
        "combine": combine,
        "log_weight_cap": log_weight_cap,
        "false_negative_margin": false_negative_margin,
        "top_k": top_k,
        "weighted_value": weighted_value,
    }
    similarity = unit_queries @ unit_targets.T
    count = np.ones_like(similarity)
    if own is not None:
        # Further columns, which each row fills with its own.
        own_count = np.ones(own.shape[:2]) if negative_weights is None else np.asarray(negative_weights, np.float64)
        own = np.where((own_count > 0)[:, :, None], own, 0.0)
        own_norms = np.linalg.norm(own, axis=2) if normalize else np.ones(own.shape[:2])
        own_norms[own_norms == 0] = np.inf
        unit_own = own / own_norms[:, :, None]
        of_own = np.stack([unit_own[i] @ unit_queries[i] for i in range(num_rows)])
        similarity = np.concatenate([similarity, of_own], axis=1)
        keep = np.concatenate([keep, own_count > 0], axis=1)
        count = np.concatenate([count, own_count], axis=1)
    row_loss, by_temperature, p_bar, gradient, stats = _direction(similarity, positives, keep, count, **options)
    scale = np.where(live, weights / total if total > 0 else 0.0, 0.0)
    loss = (scale * row_loss).sum()
    temperature_gradient = (scale * by_temperature).sum()
    gradient = scale[:, None] * gradient
    if symmetric:
        similarity_back = similarity[:, positives].T
        back = _direction(similarity_back, np.arange(num_rows), keep_back, np.ones_like(similarity_back), **options)
        loss = (loss + (scale * back[0]).sum()) / 2
        temperature_gradient = (temperature_gradient + (scale * back[1]).sum()) / 2
        gradient = gradient / 2
        for i in range(num_rows):
            gradient[:, positives[i]] += scale[i] * back[3][i] / 2

    similarity_gradient = gradient
    gradient, own_gradient = gradient[:, :num_columns], gradient[:, num_columns:]
    unit_query_gradient = gradient @ unit_targets
    unit_target_gradient = gradient.T @ unit_queries
    if own is not None:
        unit_query_gradient += np.stack([own_gradient[i] @ unit_own[i] for i in range(num_rows)])

    def through_norm(unit_gradient, unit, norms):
        if not normalize:
            return unit_gradient
        along = (unit * unit_gradient).sum(-1, keepdims=True)
        return (unit_gradient - along * unit) / norms[..., None]

    target_gradient = through_norm(unit_target_gradient, unit_targets, target_norms)
    negative_gradient = None if negatives is None else target_gradient[num_targets:]
    if own is not None:
        unit_own_gradient = own_gradient[:, :, None] * unit_queries[:, None, :]
        negative_gradient = through_norm(unit_own_gradient, unit_own, own_norms)
    return Reference(
        loss=loss,
        queries=through_norm(unit_query_gradient, unit_queries, query_norms),
        targets=target_gradient[:num_targets],
        temperature=temperature_gradient,
        negatives=negative_gradient,
        row_loss=row_loss,
        probabilities=p_bar,
        similarity_gradient=similarity_gradient,
        stats=stats,
    )


def _direction(
    similarity,
    positives,
    keep,
    count,
    *,
    temperature,
    alpha,
    beta,
    hardness,
    combine,
    log_weight_cap,
    false_negative_margin,
    top_k,
    weighted_value,
):
    """Per-row losses, their derivatives by temperature, P̄, the gradient (P̄ - Y) / τ, and statistics."""
    num_rows = len(similarity)
    row_loss = np.zeros(num_rows)
    by_temperature = np.zeros(num_rows)
    p_bar = np.zeros_like(similarity)
    gradient = np.zeros_like(similarity)
    stats = {
        name: np.zeros(num_rows)
        for name in (
            "positive_similarity",
            "hardest_negative_similarity",
            "hardest_negative_amplification",
            "positive_pull",
            "effective_negatives",
            "negative_count",
            "capped_weight_count",
        )
    }
    for i in range(num_rows):
        s, positive = similarity[i], positives[i]
        negative = keep[i].copy()
        negative[positive] = False
        if false_negative_margin is not None:
            negative &= s - s[positive] <= false_negative_margin
        if top_k is not None and negative.sum() > top_k:
            negative &= s >= np.sort(s[negative])[-top_k]
        relative = s - s[positive]
        # log of p_negative / p_positive
        log_odds = relative[negative] / temperature + np.log(count[i, negative])
        log_sum = np.logaddexp.reduce(log_odds, initial=-np.inf)
        row_loss[i] = np.logaddexp(0, log_sum)
        p = np.exp(log_odds - row_loss[i])

        log_weight = alpha * (relative if hardness == "relative" else s - 1)
        log_weight = np.logaddexp(0, (np.log(beta) if beta > 0 else -np.inf) + log_weight)[negative]
        cap = np.inf if combine == "normalized" else log_weight_cap
        stats["capped_weight_count"][i] = (log_weight > cap).sum()
        log_weight = np.minimum(log_weight, cap)
        share = np.exp(log_weight) * p
        if combine == "normalized":
            weighted_sum = np.logaddexp.reduce(log_odds + log_weight, initial=-np.inf)
            share = np.exp(log_odds + log_weight - np.logaddexp(0, weighted_sum))
        if weighted_value:
            row_loss[i] = np.logaddexp(0, weighted_sum)
        value_share = share if weighted_value else p
        by_temperature[i] = -(value_share * relative[negative]).sum() / temperature**2
        pull = p.sum() if combine == "unnormalized" else share.sum()
        p_bar[i, negative] = share
        p_bar[i, positive] = 1 - pull
        gradient[i, negative] = share / temperature
        gradient[i, positive] = -pull / temperature

        has = negative.any()
        hardest = np.argmax(s[negative]) if has else 0
        stats["positive_similarity"][i] = s[positive]
        stats["hardest_negative_similarity"][i] = s[negative].max() if has else -np.inf
        stats["hardest_negative_amplification"][i] = share[hardest] / p[hardest] if has else 1.0
        stats["positive_pull"][i] = pull
        stats["effective_negatives"][i] = 1 / ((share / share.sum()) ** 2).sum() if share.sum() > 0 else 0.0
        stats["negative_count"][i] = negative.sum()
    return row_loss, by_temperature, p_bar, gradient, stats


def siglip(
    queries,
    targets,
    *,
    negatives=None,
    negative_weights=None,
    temperature=0.1,
    bias=-10.0,
    positives=None,
    query_ids=None,
    target_ids=None,
    mask=None,
    target_mask=None,
    weights=None,
    normalize=True,
    reduction="mean",
):
    """SigLIP's loss pair by pair: value, and gradients by queries, targets, negatives, temperature and bias."""
    sides = [np.asarray(queries, np.float64), np.asarray(targets, np.float64)]
    num_rows, num_targets = len(sides[0]), len(sides[1])
    own = negatives is not None and np.ndim(negatives) == 3
    if negatives is not None:
        sides.append(np.asarray(negatives, np.float64))
    norms = [np.linalg.norm(x, axis=-1, keepdims=True) if normalize else np.ones((*x.shape[:-1], 1)) for x in sides]
    units = [x / np.where(norm == 0, np.inf, norm) for x, norm in zip(sides, norms, strict=True)]
    gradients = [np.zeros_like(x) for x in sides]
    positives = np.arange(num_rows) if positives is None else positives
    weights = np.ones(num_rows) if weights is None else np.asarray(weights, np.float64)
    total = weights.sum() if reduction == "mean" else 1.0
    loss = by_temperature = by_bias = 0.0
    for i in range(num_rows):
        if weights[i] == 0:
            continue
        pairs = [(1, (j,), 1.0) for j in range(num_targets)]
        if negatives is not None and own:
            counts = np.ones(len(negatives[i])) if negative_weights is None else negative_weights[i]
            pairs += [(2, (i, k), count) for k, count in enumerate(counts)]
        elif negatives is not None:
            pairs += [(2, (k,), 1.0) for k in range(len(negatives))]
        for side, place, count in pairs:
            column = place[0] if side == 1 else num_targets + place[0]
            is_positive = side == 1 and column == positives[i]
            if not is_positive and not (own and side == 2):
                if target_mask is not None and column < len(target_mask) and not target_mask[column]:
                    continue
                if query_ids is not None and column < len(target_ids) and query_ids[i] == target_ids[column]:
                    continue
                if mask is not None and column < mask.shape[1] and not mask[i, column]:
                    continue
            if count == 0:
                continue
            label = 1 if is_positive else -1
            similarity = units[0][i] @ units[side][place]
            logit = similarity / temperature + bias
            scale = weights[i] / total * count
            loss += scale * np.logaddexp(0, -label * logit)
            by_logit = -label * scale * np.exp(-np.logaddexp(0, label * logit))
            by_temperature -= by_logit * similarity / temperature**2
            by_bias += by_logit
            gradients[0][i] += by_logit / temperature * units[side][place]
            gradients[side][place] += by_logit / temperature * units[0][i]
    if normalize:
        gradients = [
            (gradient - (gradient * unit).sum(-1, keepdims=True) * unit) / np.where(norm == 0, np.inf, norm)
            for gradient, unit, norm in zip(gradients, units, norms, strict=True)
        ]
    named = dict(zip(("queries", "targets", "negatives"), gradients, strict=False))
    return loss, {**named, "temperature": by_temperature, "bias": by_bias}
