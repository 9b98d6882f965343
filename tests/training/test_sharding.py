"""Rules from logical axes to mesh axes."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from ega_jax.errors import BadInputError
from ega_jax.models import build
from ega_jax.models.functional import Functional
from ega_jax.training.config import MeshSettings
from ega_jax.training.sharding import AxisRules, batch_devices, islands, make_mesh, parameter_shardings


def mesh(**sizes):
    return make_mesh(MeshSettings(**sizes))


def test_matrices_are_split_twice_and_vectors_not_at_all():
    rules, devices = AxisRules(), mesh(data=2, fsdp=2, tensor=2)
    assert rules.spec(("embed", "mlp"), (8, 16), devices) == P("fsdp", "tensor")
    assert rules.spec(("layers", "mlp", "embed"), (3, 16, 8), devices) == P(None, "tensor", "fsdp")
    assert rules.spec(("layers", "embed"), (3, 8), devices) == P()
    assert rules.spec(("embed",), (8,), devices) == P()


def test_a_dimension_that_does_not_divide_stays_whole():
    assert AxisRules().spec(("embed", "mlp"), (7, 16), mesh(data=2, fsdp=2, tensor=2)) == P(None, "tensor")


def test_a_collision_and_an_unknown_name_are_refused():
    devices = mesh(data=2, fsdp=2, tensor=2)
    with pytest.raises(ValueError, match="fall on one mesh axis"):
        AxisRules().spec(("mlp", "heads"), (8, 8), devices)
    with pytest.raises(ValueError, match=r"no rule for the logical axes \['width'\]"):
        AxisRules().spec(("width", "mlp"), (8, 8), devices)


def test_mesh_sizes():
    assert dict(mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert batch_devices(mesh(fsdp=2, tensor=2)) == 4
    assert make_mesh(MeshSettings(), jax.devices()[:1]).size == 1
    with pytest.raises(BadInputError, match="has 6 places for 8 devices"):
        mesh(data=3, fsdp=2)


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh is laid out by."""

    id: int
    process_index: int
    slice_index: int | None = None
    coords: tuple[int, ...] = ()
    platform: str = "gpu"
    device_kind: str = "NVIDIA H200"
    core_on_chip: int = 0


def hosts(count, local):
    return [Device(place, place // local) for place in range(count * local)]


def slices(count):
    """Slices of 4 x 4 chips of a TPU, four to a host."""
    return [
        Device(16 * at + 4 * x + y, 4 * at + 2 * (x // 2) + y // 2, at, (x, y, 0), "tpu", "TPU v5 lite")
        for at in range(count)
        for x in range(4)
        for y in range(4)
    ]


def crossing(devices, **sizes):
    """The axes of a mesh along which some neighbours share no fast links."""
    grid = make_mesh(MeshSettings(**sizes), devices).devices
    island = np.vectorize(dict(zip(devices, islands(devices), strict=True)).get)(grid)
    return [name for axis, name in enumerate(("data", "fsdp", "tensor")) if np.diff(island, axis=axis).any()]


@pytest.mark.parametrize("devices", [hosts(4, 8), slices(2)], ids=["hosts", "slices"])
def test_only_the_data_axis_leaves_a_host_or_a_slice(devices):
    rng = np.random.default_rng(0)
    shuffled = [devices[place] for place in rng.permutation(len(devices))]
    for sizes in ({}, {"fsdp": 8}, {"fsdp": 2, "tensor": 4}, {"tensor": 2}):
        assert crossing(shuffled, **sizes) == ["data"], sizes


def test_fsdp_leaves_a_host_where_data_has_too_few_places():
    assert crossing(hosts(4, 8), data=2, fsdp=16) == ["data", "fsdp"]
    assert crossing(hosts(4, 8), data=1, fsdp=32) == ["fsdp"]
    assert crossing(hosts(2, 6), data=3, fsdp=4) == ["fsdp"]


def test_islands_are_slices_of_tpus_and_hosts_of_gpus():
    assert set(islands(slices(1))) == {0}  # four processes, one slice
    assert islands(slices(2)) == [0] * 16 + [1] * 16
    assert islands(hosts(2, 4)) == [0] * 4 + [1] * 4
    assert set(islands(hosts(8, 1))) == {0}  # a process a device: several may share a host
    # JAX's own numbering of hosts, where it has one, is believed.
    numbered = [dataclasses.replace(one, slice_index=one.id // 4) for one in hosts(8, 1)]
    assert islands(numbered) == [0] * 4 + [1] * 4
    uneven = [Device(0, 0), Device(1, 0), Device(2, 1)]
    assert set(islands(uneven)) == {0}


def test_every_parameter_has_a_place_and_the_large_ones_are_split():
    functional = Functional(lambda rngs: build("llava_onevision_7b", rngs=rngs))
    places = parameter_shardings(functional, mesh(data=1, fsdp=4, tensor=2))
    assert set(places) == set(functional.parameters)
    for path, leaf in functional.parameters.items():
        shard = places[path].shard_shape(leaf.shape)
        if leaf.size > 1e7:
            assert 8 * jax.numpy.prod(jax.numpy.array(shard), dtype=float) == leaf.size, path


def test_parameters_are_born_where_they_live():
    functional = Functional(lambda rngs: build("llava_onevision_tiny", rngs=rngs))
    places = parameter_shardings(functional, mesh(data=2, fsdp=2, tensor=2))
    parameters = functional.initialize(3, places)
    assert all(array.sharding == places[path] for path, array in parameters.items())
    whole = nnx.state(build("llava_onevision_tiny", rngs=nnx.Rngs(3)))
    for path, variable in nnx.to_flat_state(whole):
        name = "/".join(map(str, path))
        assert jax.numpy.allclose(parameters[name], variable[...], atol=1e-6), name
