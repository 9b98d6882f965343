"""The fingerprint of weights sees every bit, and nothing but the bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ega_jax.models.fingerprint import weights_fingerprint


@pytest.fixture
def parameters():
    generator = np.random.default_rng(0)
    return {
        "kernel": jnp.asarray(generator.normal(size=(2, 16, 24)), jnp.float32),
        "scale": jnp.asarray(generator.normal(size=(40,)), jnp.bfloat16),
        "zeros": jnp.zeros((8, 8)),
    }


def test_placement_and_order_change_nothing(parameters):
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    sharded = {
        "zeros": jax.device_put(parameters["zeros"], NamedSharding(mesh, PartitionSpec(("a", "b")))),
        "scale": jax.device_put(parameters["scale"], NamedSharding(mesh, PartitionSpec("b"))),
        "kernel": jax.device_put(parameters["kernel"], NamedSharding(mesh, PartitionSpec(None, "b", "a"))),
    }
    assert weights_fingerprint(sharded) == weights_fingerprint(parameters)


def test_every_change_shows(parameters):
    kernel = np.asarray(parameters["kernel"])
    last_bit = kernel.copy()
    last_bit.view(np.uint32)[1, 7, 3] ^= 1
    swapped = kernel.copy()
    swapped[0, 0, [0, 1]] = swapped[0, 0, [1, 0]]
    changed = {
        "the same": {},
        "the last bit of one number": {"kernel": jnp.asarray(last_bit)},
        "two numbers swapped": {"kernel": jnp.asarray(swapped)},
        "two layers swapped": {"kernel": jnp.asarray(kernel[::-1])},
        "a sign of zero": {"zeros": parameters["zeros"].at[3, 3].set(-0.0)},
        "a shape": {"zeros": jnp.zeros((4, 16))},
        "a dtype": {"scale": parameters["scale"].astype(jnp.float32)},
        "one of 16 bits": {"scale": parameters["scale"].at[39].multiply(1.01)},
        "a name": {"more": jnp.zeros(1)},
        # Their bits differ by one number everywhere, and sums that weigh places linearly cancel.
        "ones": {"zeros": jnp.ones((8, 8))},
        "twos": {"zeros": jnp.full((8, 8), 2.0)},
        "fours": {"zeros": jnp.full((8, 8), 4.0)},
        "ones in another shape": {"scale": jnp.ones((2, 16))},
        "twos in another shape": {"scale": jnp.full((2, 16), 2.0)},
    }
    found = {what: weights_fingerprint({**parameters, **change}) for what, change in changed.items()}
    assert len(set(found.values())) == len(changed), found
    assert all(len(name) == 32 for name in found.values())
