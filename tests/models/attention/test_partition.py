"""Attention that has to be told how to run on a mesh: each device its own rows and heads."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ega_jax.models.attention import attention
from ega_jax.models.attention.by_heads import attention_by_heads
from ega_jax.models.attention.partition import HEADS_AXIS
from ega_jax.models.attention.splash import splash_attention
from ega_jax.training.sharding import BATCH, AxisRules
from tests.models.attention.reference import arrays, with_gradients

BACKENDS = {"splash": functools.partial(splash_attention, interpret=True), "by heads": attention_by_heads}


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_on_each_device_with_its_rows_and_heads(backend):
    mesh = jax.make_mesh((2, 2, 2), (*BATCH, HEADS_AXIS), axis_types=(AxisType.Auto,) * 3)
    q, k, v, pull = arrays(4, 2, length=140, head_dim=16)
    mask = np.broadcast_to(np.arange(140) < np.array([[90], [140]]), (4, 2, 140))
    pull = pull * mask[..., None, None]

    def grouped(attend, q, k, v):
        one = functools.partial(attend, causal=True, segment_ids=None)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.vmap(lambda q, k, v, m: one(q, k, v, key_mask=m), spmd_axis_name=BATCH)(q, k, v, mask)

    place = NamedSharding(mesh, P(BATCH, None, None, HEADS_AXIS))
    placed = [jax.device_put(x, place) for x in (q, k, v, pull)]
    program = jax.jit(functools.partial(with_gradients, functools.partial(grouped, BACKENDS[backend])))
    got = program(*placed)
    expected = with_gradients(
        functools.partial(grouped, functools.partial(attention, implementation="xla")), q, k, v, pull
    )
    for one, other in zip(got, expected, strict=True):
        assert one.sharding.is_equivalent_to(place, one.ndim)
        real = mask[..., None, None]
        np.testing.assert_allclose(one * real, other * real, atol=3e-6 * np.abs(other).max())
    text = program.lower(*placed).compile().as_text()
    assert not any(f" {collective}(" in text for collective in ("all-gather", "all-reduce", "all-to-all"))


def test_the_axis_of_heads_is_that_of_the_parameters():
    rules = AxisRules()
    assert rules.heads == rules.vision_heads == HEADS_AXIS
