"""`hardness_metrics`: the percentiles are those of numpy, over the rows that have a negative and a weight."""

import jax.numpy as jnp
import numpy as np

from ega_jax.losses import LossStats
from ega_jax.training.step import PERCENTILES, hardness_metrics


def stats_of(rows, **changes):
    random = np.random.default_rng(0)
    values = {name: random.normal(size=rows).astype(np.float32) for name in LossStats.__dataclass_fields__}
    values |= {"weight": np.ones(rows), "negative_count": np.full(rows, 7), **changes}
    return LossStats(**{name: jnp.asarray(value) for name, value in values.items()})


def test_percentiles_over_the_rows_that_count():
    rows = 37
    weight, negatives = np.ones(rows), np.full(rows, 7)
    weight[3], negatives[5] = 0, 0
    hardest = np.random.default_rng(1).normal(size=rows).astype(np.float32)
    hardest[5] = -np.inf
    stats = stats_of(rows, weight=weight, negative_count=negatives, hardest_negative_similarity=hardest)
    found = hardness_metrics(stats)
    kept = [row for row in range(rows) if row not in (3, 5)]
    for name, values in {
        "amplification": stats.hardest_negative_amplification,
        "positive_similarity": stats.positive_similarity,
        "hardest_negative_similarity": hardest,
    }.items():
        expected = np.percentile(np.asarray(values)[kept], PERCENTILES)
        mine = [found[f"hardness/{name}_p{percentile}"] for percentile in PERCENTILES]
        np.testing.assert_allclose(mine, expected, rtol=1e-6)


def test_without_a_negative_there_is_no_percentile_and_no_warning():
    found = hardness_metrics(stats_of(4, negative_count=np.zeros(4, int)))
    assert np.isnan(found["hardness/amplification_p50"])
    assert found["hardness/violations"] == 0
