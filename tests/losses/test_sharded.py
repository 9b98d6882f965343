"""Over a mesh, the loss, its gradients and its statistics are those of one device."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ega_jax.losses import ega_loss, sharded_ega_loss

from .test_ega import batch

ROWS, COLUMNS, FEATURES = 16, 24, 6
rng = np.random.default_rng(0)
MESHES = {
    "1": ((1,), ("data",)),
    "2": ((2,), ("data",)),
    "4": ((4,), ("data",)),
    "8": ((8,), ("data",)),
    "4 x 2": ((4, 2), ("data", "fsdp")),
    "2 x 2 x 2": ((2, 2, 2), ("data", "fsdp", "tensor")),
}
OPTIONS = {
    "plain": {},
    "stats": {"return_stats": True},
    "symmetric": {"symmetric": True},
    "blocks": {"block_size": 1, "return_stats": True},
    "padding": {
        "weights": np.r_[rng.random(14), 0, 0].astype(np.float32),
        "target_mask": np.r_[np.ones(14, bool), np.zeros(2, bool), rng.random(8) < 0.7],
        "symmetric": True,
        "reduction": "sum",
    },
    "ids": {
        "query_ids": rng.integers(0, 12, ROWS),
        "target_ids": rng.integers(0, 12, COLUMNS),
        "symmetric": True,
    },
    "positives": {"positives": rng.integers(0, COLUMNS, ROWS)},
    "positives, symmetric, masked": {
        "positives": rng.integers(0, COLUMNS, ROWS),
        "target_mask": rng.random(COLUMNS) < 0.6,
        "symmetric": True,
    },
    "distinct positives": {
        "positives": np.r_[rng.permutation(COLUMNS)[: ROWS - 2], 0, 0],
        "weights": np.r_[np.ones(ROWS - 2), 0, 0].astype(np.float32),  # rows that do not count may share one
        "distinct_positives": True,
        "target_mask": rng.random(COLUMNS) < 0.6,
        "query_ids": rng.integers(0, 12, ROWS),
        "target_ids": rng.integers(0, 12, COLUMNS),
        "mask": lambda i, j, table: table[i, j],
        "mask_args": (rng.random((ROWS, COLUMNS)) < 0.8,),
        "false_negative_margin": 0.2,
        "symmetric": True,
        "return_stats": True,
    },
    "mask": {"mask": rng.random((ROWS, COLUMNS)) < 0.6},
    "mask, symmetric": {"mask": rng.random((ROWS, COLUMNS)) < 0.6, "symmetric": True},
    "mask function": {
        "mask": lambda i, j, table: table[i, j],
        "mask_args": (rng.random((ROWS, COLUMNS)) < 0.6,),
        "symmetric": True,
    },
    "shared negatives": {
        "negatives": rng.normal(size=(8, FEATURES)).astype(np.float32),
        "target_ids": rng.integers(0, 12, COLUMNS + 8),
        "query_ids": rng.integers(0, 12, ROWS),
        "target_mask": rng.random(COLUMNS) < 0.8,
        "mask": rng.random((ROWS, COLUMNS + 8)) < 0.8,
        "positives": rng.integers(0, COLUMNS, ROWS),
    },
    "own negatives": {
        "negatives": rng.normal(size=(ROWS, 3, FEATURES)).astype(np.float32),
        "negative_weights": rng.random((ROWS, 3)).astype(np.float32),
        "top_k": 7,
        "block_size": 1,
    },
    "own negatives, all": {
        "negatives": rng.normal(size=(ROWS, 3, FEATURES)).astype(np.float32),
        "negative_weights": rng.random((ROWS, 3)).astype(np.float32),
        "combine": "rebalanced",
        "false_negative_margin": 0.2,
        "return_stats": True,
    },
    # As many targets as queries: a row and its positive are on one device.
    "square": {
        "columns": ROWS,
        "negatives": rng.normal(size=(8, FEATURES)).astype(np.float32),
        "weights": np.r_[rng.random(14), 0, 0].astype(np.float32),
        "target_mask": np.r_[np.ones(14, bool), np.zeros(2, bool), rng.random(8) < 0.7],
        "query_ids": rng.integers(0, 12, ROWS),
        "target_ids": rng.integers(0, 12, ROWS),
        "mask": lambda i, j, table: table[i, j],
        "mask_args": (rng.random((ROWS, ROWS + 8)) < 0.8,),
        "combine": "rebalanced",
        "symmetric": True,
        "block_size": 1,
        "return_stats": True,
    },
    "square, own negatives": {
        "columns": ROWS,
        "negatives": rng.normal(size=(ROWS, 3, FEATURES)).astype(np.float32),
        "false_negative_margin": 0.2,
        "symmetric": True,
    },
    "square, mask": {"columns": ROWS, "mask": rng.random((ROWS, ROWS)) < 0.6, "symmetric": True},
    "rebalanced, margin": {"combine": "rebalanced", "false_negative_margin": 0.2, "hardness": "absolute"},
}
CASES = [("4 x 2", name) for name in OPTIONS if name not in ("plain", "stats")]
CASES += [("2 x 2 x 2", "padding"), *((mesh, "square") for mesh in ("1", "2", "4", "8"))]


def make_mesh(name, axis_type=AxisType.Auto):
    shape, names = MESHES[name]
    return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(shape)), tuple(names[:2])


def steps(loss, **options):
    """A jitted value-and-gradient of embeddings, temperature and, if there are, negatives."""
    has_aux = bool(options.get("return_stats"))
    columns = options.pop("columns", COLUMNS)
    static = {k: v for k, v in options.items() if not isinstance(v, np.ndarray) and k != "mask_args"}
    arrays = {k: v for k, v in options.items() if k not in static}

    def function(differentiable, rest):
        return loss(**differentiable, **rest, **static)

    differentiable = dict(zip(("queries", "targets"), batch(ROWS, columns, FEATURES), strict=True))
    differentiable["temperature"] = jnp.float32(0.05)
    if "negatives" in arrays:
        differentiable["negatives"] = arrays.pop("negatives")
    return jax.jit(jax.value_and_grad(function, has_aux=has_aux))(differentiable, arrays)


@functools.cache
def on_one_device(name):
    # Where they may be told from a promise, let one device find out for itself: by two calls.
    return jax.device_get(steps(ega_loss, **{**OPTIONS[name], "distinct_positives": False}))


@pytest.mark.parametrize(("mesh_name", "name"), CASES)
def test_equals_one_device(mesh_name, name):
    mesh, axes = make_mesh(mesh_name)
    actual = steps(sharded_ega_loss(mesh, axes), **OPTIONS[name])
    chex.assert_trees_all_close(jax.device_get(actual), on_one_device(name), rtol=2e-5, atol=1e-5)


RING_CASES = [
    ("4 x 2", "blocks"),
    ("4 x 2", "positives, symmetric, masked"),
    ("4 x 2", "distinct positives"),
    ("4 x 2", "mask function"),
    ("4 x 2", "ids"),
    ("4 x 2", "own negatives, all"),
    ("4 x 2", "square, own negatives"),
    ("2 x 2 x 2", "padding"),
    *((mesh, "square") for mesh in ("1", "2", "4", "8")),
]


@pytest.mark.parametrize(("mesh_name", "name"), RING_CASES)
def test_ring_equals_one_device(mesh_name, name):
    mesh, axes = make_mesh(mesh_name)
    actual = steps(sharded_ega_loss(mesh, axes, exchange="ring"), **OPTIONS[name])
    chex.assert_trees_all_close(jax.device_get(actual), on_one_device(name), rtol=5e-5, atol=1e-5)


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
@pytest.mark.parametrize("name", ["square", "own negatives, all"])
def test_explicit_meshes(exchange, name):
    mesh, axes = make_mesh("4 x 2", AxisType.Explicit)
    with jax.set_mesh(mesh):
        actual = jax.device_get(steps(sharded_ega_loss(mesh, axes, exchange=exchange), **OPTIONS[name]))
    chex.assert_trees_all_close(actual, on_one_device(name), rtol=5e-5, atol=1e-5)


def test_ring_needs_less_than_a_third_of_the_memory():
    """The compiled step's temporaries a device, over eight devices."""
    mesh, axes = make_mesh("8")
    sharding = NamedSharding(mesh, PartitionSpec(axes))
    shape = jax.ShapeDtypeStruct((32768, 1024), jnp.float32, sharding=sharding)
    mib = {}
    for exchange in ("all_gather", "ring"):
        loss = sharded_ega_loss(mesh, axes, exchange=exchange)
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(shape, shape).compile()
        mib[exchange] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    assert mib["ring"] <= min(100, 0.3 * mib["all_gather"])


def test_ring_memory_does_not_grow_with_devices():
    """At equal rows a device, what a device holds stays the same; nothing is gathered."""
    local, features, block_size = 256, 64, 32
    bytes_by_devices = {}
    for devices in (2, 8):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        shape = jax.ShapeDtypeStruct((devices * local, features), jnp.float32, sharding=sharding)
        loss = sharded_ega_loss(mesh, "data", exchange="ring", block_size=block_size)
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(shape, shape).compile()
        assert " all-gather(" not in compiled.as_text()
        bytes_by_devices[devices] = compiled.memory_analysis().temp_size_in_bytes
    assert bytes_by_devices[8] < 1.1 * bytes_by_devices[2]
    assert bytes_by_devices[8] < 20 * 4 * local * features + 8 * 4 * block_size * local


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_arrays_stay_sharded(axis_type):
    mesh, axes = make_mesh("4 x 2", axis_type)
    sharding = NamedSharding(mesh, PartitionSpec(axes))
    queries, targets = batch(ROWS, COLUMNS, FEATURES)
    arguments = jax.device_put((queries, targets), sharding)
    with jax.set_mesh(mesh):
        value, gradients = jax.jit(jax.value_and_grad(sharded_ega_loss(mesh, axes), (0, 1)))(*arguments)
    assert gradients[1].sharding.is_equivalent_to(sharding, 2)
    expected = jax.value_and_grad(ega_loss, (0, 1))(queries, targets)
    chex.assert_trees_all_close(jax.device_get((value, gradients)), expected, rtol=1e-5, atol=1e-5)


def inside_shard_map(mesh, axes, function, *arguments):
    by_row = PartitionSpec(axes)
    return jax.jit(
        jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(by_row, by_row, PartitionSpec()),
            out_specs=(PartitionSpec(), (by_row, by_row, PartitionSpec())),
        )
    )(*arguments)


@pytest.mark.parametrize("block_size", [None, 1])
def test_gradients_taken_inside_shard_map(block_size):
    """Inside, too, each device gets the gradient of the one loss, and the temperature that of all devices together."""
    mesh, axes = make_mesh("4 x 2")
    arguments = (*batch(ROWS, COLUMNS, FEATURES), jnp.float32(0.05))

    def loss(**options):
        return jax.value_and_grad(
            lambda q, t, tau: ega_loss(q, t, temperature=tau, block_size=block_size, symmetric=True, **options),
            (0, 1, 2),
        )

    actual = inside_shard_map(mesh, axes, loss(axis_name=axes), *arguments)
    # Two rows and three columns a device; a row's own positive is on its device.
    positives = np.arange(ROWS) // 2 * 3 + np.arange(ROWS) % 2
    expected = jax.jit(loss(positives=positives))(*arguments)
    chex.assert_trees_all_close(actual, expected, rtol=2e-5, atol=1e-5)


def test_encoder_gradients_inside_and_outside():
    """Replicated parameters get the sum over devices, once."""
    mesh, axes = make_mesh("4 x 2")
    by_row = PartitionSpec(axes)
    queries, targets = batch(ROWS, ROWS, FEATURES)
    weight = np.random.default_rng(1).normal(size=(FEATURES, 4)).astype(np.float32)

    def loss(weight, queries, targets, axis_name=None):
        return ega_loss(queries @ weight, targets @ weight, temperature=0.1, axis_name=axis_name)

    def shard(function, out_specs):
        specs = (PartitionSpec(), by_row, by_row)
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs)

    expected = jax.grad(loss)(weight, queries, targets)
    inside = jax.jit(shard(jax.grad(lambda *a: loss(*a, axis_name=axes)), PartitionSpec()))
    outside = jax.jit(jax.grad(shard(lambda *a: loss(*a, axis_name=axes), PartitionSpec())))
    for function in (inside, outside):
        chex.assert_trees_all_close(function(weight, queries, targets), expected, rtol=2e-5, atol=1e-6)


def test_a_loss_of_each_device_alone():
    """Without axis_name, shard_map computes a loss a device; replicated temperatures sum their gradients."""
    mesh, axes = make_mesh("2")
    by_row = PartitionSpec(axes)
    queries, targets = batch(ROWS, ROWS, FEATURES)

    def loss(queries, targets, temperature):
        def local(q, t, tau):
            return ega_loss(q, t, temperature=tau, block_size=3)[None]

        losses = jax.shard_map(local, mesh=mesh, in_specs=(by_row, by_row, PartitionSpec()), out_specs=by_row)(
            queries, targets, temperature
        )
        return jnp.sum(losses)

    def expected(queries, targets, temperature):
        halves = (slice(0, 8), slice(8, 16))
        return sum(ega_loss(queries[h], targets[h], temperature=temperature) for h in halves)

    arguments = (queries, targets, jnp.float32(0.05))
    actual, expected = (jax.jit(jax.value_and_grad(f, (0, 1, 2)))(*arguments) for f in (loss, expected))
    chex.assert_trees_all_close(jax.device_get(actual), jax.device_get(expected), rtol=2e-5, atol=1e-5)


def test_bfloat16_gradients_are_summed_in_float32():
    mesh, axes = make_mesh("8")
    queries, targets = (jnp.asarray(x, jnp.bfloat16) for x in batch(64, 64, 32))
    exact = jax.jit(jax.grad(ega_loss, 1))(queries.astype(jnp.float32), targets.astype(jnp.float32))
    actual = jax.jit(jax.grad(sharded_ega_loss(mesh, axes), 1))(queries, targets)
    assert actual.dtype == jnp.bfloat16
    error = np.abs(np.asarray(actual, np.float32) - exact).max() / np.abs(exact).max()
    assert error < 4e-3


def test_unchecked_shard_map_is_refused():
    mesh, axes = make_mesh("8")
    by_row = PartitionSpec(axes)
    unchecked = jax.shard_map(
        lambda q, t: ega_loss(q, t, axis_name=axes),
        mesh=mesh,
        in_specs=(by_row, by_row),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    with pytest.raises(ValueError, match="check_vma=True"):
        unchecked(*batch(ROWS, ROWS, FEATURES))


def test_collectives_and_memory():
    """One all-gather and one reduce-scatter of embeddings; no array of all pairs on any device."""
    mesh, axes = make_mesh("8")
    size, features = 4096, 16
    shape = jax.ShapeDtypeStruct((size, features), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(axes)))
    loss = sharded_ega_loss(mesh, axes, block_size=64)
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(shape, shape).compile()
    program = compiled.as_text()
    assert program.count(" all-gather(") <= 3  # targets; their norms and numbers, if not combined
    assert program.count(" reduce-scatter(") == 1
    assert " all-to-all(" not in program
    assert compiled.memory_analysis().temp_size_in_bytes < 5 * 4 * 64 * size + 12 * 4 * size * features


BAD_CALLS = {
    "axes": ({"axes": ("data", "model")}, {}, r"axes \['model'\] are not among the mesh's \('data', 'fsdp'\)"),
    "exchange": ({"exchange": "telepathy"}, {}, "exchange must be"),
    "axis_name": ({"axis_name": "data"}, {}, "axis_name is set from axes"),
    "lengths": ({}, {"negatives": np.ones((3, FEATURES))}, "negatives of length 3 cannot be spread"),
    "ring and top_k": ({"exchange": "ring"}, {"top_k": 3}, "top_k needs all columns at once"),
    "ring and masks": (
        {"exchange": "ring"},
        {"mask": np.ones((ROWS, COLUMNS), bool)},
        "use a mask function",
    ),
    "symmetric masks": (
        {"symmetric": True},
        {"mask": np.ones((ROWS, COLUMNS), bool), "positives": np.arange(ROWS)},
        "use a mask function",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    made_with, called_with, message = BAD_CALLS[name]
    mesh, _ = make_mesh("4 x 2")
    with pytest.raises(ValueError, match=message):
        sharded_ega_loss(mesh, **made_with)(*batch(ROWS, COLUMNS, FEATURES), **called_with)
