"""Encoding in chunks gives the gradient of the whole batch, whoever encodes and wherever rows lie."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ega_jax.losses import ega_loss, encode_in_chunks

FEATURES = 6
rng = np.random.default_rng(0)
QUERIES, TARGETS = ({"x": rng.normal(size=(22, FEATURES)).astype(np.float32), "scale": rng.random(22)} for _ in "qt")


def mlp(parameters, rows):
    """A plain function of a tree; NaN gradients at rows of zeros."""
    hidden = jnp.tanh(rows["x"] @ parameters["up"]) * rows["scale"][:, None]
    hidden /= jnp.linalg.norm(hidden, axis=1, keepdims=True)
    return hidden @ parameters["down"]


PARAMETERS = {
    "up": rng.normal(size=(FEATURES, 32)).astype(np.float32),
    "down": rng.normal(size=(32, 8)).astype(np.float32),
}


def step(encode, parameters, queries=QUERIES, targets=TARGETS):
    """Loss and gradient of `encode(parameters, rows)` on both sides."""

    def loss(parameters, queries, targets):
        return ega_loss(encode(parameters, queries), encode(parameters, targets), temperature=0.1)

    return jax.jit(jax.value_and_grad(loss))(parameters, queries, targets)


@functools.cache
def direct():
    return step(mlp, PARAMETERS)


@pytest.mark.parametrize("chunk_size", [1, 4, 21, 100])
def test_chunks_that_do_and_do_not_divide(chunk_size):
    chunked = step(functools.partial(encode_in_chunks, mlp, chunk_size=chunk_size), PARAMETERS)
    chex.assert_trees_all_close(chunked, direct(), rtol=1e-5, atol=1e-6)


def test_rows_keep_their_order():
    rows = {"x": np.arange(22.0).reshape(11, 2), "n": np.arange(11)}
    found = encode_in_chunks(lambda shift, rows: (rows["x"] + shift, {"n": rows["n"]}), 1.0, rows, chunk_size=3)
    chex.assert_trees_all_close(found, (rows["x"] + 1, {"n": rows["n"]}))


def test_the_inputs_have_gradients_too():
    def loss(x, chunk_size):
        rows = {**QUERIES, "x": x}
        return jnp.sum(jnp.sin(encode_in_chunks(mlp, PARAMETERS, rows, chunk_size=chunk_size)))

    chunked, whole = (jax.grad(loss)(QUERIES["x"], size) for size in (4, 22))
    assert np.abs(whole).max() > 0.01
    chex.assert_trees_all_close(chunked, whole, rtol=1e-5, atol=1e-6)


def test_activations_are_those_of_one_chunk():
    rows = {"x": np.ones((512, FEATURES), np.float32), "scale": np.ones(512)}
    wide = {"up": np.ones((FEATURES, 1024), np.float32), "down": np.ones((1024, 8), np.float32)}

    def temporaries(chunk_size):
        def loss(parameters):
            return jnp.sum(encode_in_chunks(mlp, parameters, rows, chunk_size=chunk_size) ** 2)

        return jax.jit(jax.grad(loss)).lower(wide).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(16) < 0.2 * temporaries(512)


# --------------------------------------------------------------------------------------------------------------- noise


def drop(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0)


def test_keys_of_rows_draw_the_same_noise_whatever_the_chunks():
    def encode(parameters, rows):
        return mlp(parameters, {**rows, "x": jax.vmap(drop)(rows["x"], rows["key"])}) + 0.1

    keys = jax.random.split(jax.random.key(5), 22)
    sides = [{**side, "scale": 1 + side["scale"], "key": keys} for side in (QUERIES, TARGETS)]
    for side in sides:
        side["x"] = np.concatenate([side["x"], np.ones((22, 8), np.float32)], axis=1)  # no row loses all
    parameters = {**PARAMETERS, "up": rng.normal(size=(FEATURES + 8, 32)).astype(np.float32)}
    whole = step(encode, parameters, *sides)
    chunked = step(functools.partial(encode_in_chunks, encode, chunk_size=4), parameters, *sides)
    chex.assert_trees_all_close(chunked, whole, rtol=1e-5, atol=1e-6)
    assert np.isfinite(whole[0])


def test_a_key_of_each_chunk_is_the_same_in_the_backward_pass():
    """Against a loop over the chunks that draws the same noise and keeps every activation."""
    key = jax.random.key(7)
    chunks = 4  # 22 rows by 6

    def encode(parameters, rows, key):
        return mlp(parameters, rows) * (1 + jax.random.bernoulli(key, 0.5, (len(rows["x"]), 8)))

    def loop(parameters, rows):
        embeddings = jnp.zeros((22, 8))
        for chunk in range(chunks):
            which = np.arange(chunk, 24, chunks)
            part = jax.tree.map(lambda x, which=which: x[np.minimum(which, 21)], rows)
            found = encode(parameters, part, jax.random.fold_in(key, chunk))
            embeddings = embeddings.at[which[which < 22]].set(found[: np.sum(which < 22)])
        return embeddings

    chunked = step(functools.partial(encode_in_chunks, encode, chunk_size=6, key=key), PARAMETERS)
    chex.assert_trees_all_close(chunked, step(loop, PARAMETERS), rtol=1e-5, atol=1e-6)
    assert abs(float(chunked[0] - direct()[0])) > 1e-3
    raw = encode_in_chunks(encode, PARAMETERS, QUERIES, chunk_size=6, key=jax.random.PRNGKey(7))
    chex.assert_trees_all_close(raw, loop(PARAMETERS, QUERIES), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------- flax


class NnxTower(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(FEATURES, 32, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.down = nnx.Linear(32, 8, rngs=rngs)

    def __call__(self, x, key=None):
        hidden = self.dropout(nnx.relu(self.up(x)), deterministic=key is None, rngs=key)
        return self.down(hidden)


@pytest.mark.parametrize("form", ["module", "split and merge"])
def test_flax_nnx(form):
    model = NnxTower(nnx.Rngs(0))
    graph, state = nnx.split(model)
    parameters = model if form == "module" else state

    def encode(parameters, x, key=None):
        tower = parameters if form == "module" else nnx.merge(graph, parameters)
        return tower(x, key)

    arguments = (parameters, QUERIES["x"], TARGETS["x"])
    chunked = functools.partial(encode_in_chunks, encode, chunk_size=5)
    whole = step(encode, *arguments)
    chex.assert_trees_all_close(step(chunked, *arguments), whole, rtol=1e-5, atol=1e-6)
    of_nnx = nnx.jit(nnx.value_and_grad(lambda p, q, t: ega_loss(chunked(p, q), chunked(p, t), temperature=0.1)))
    chex.assert_trees_all_close(jax.tree.leaves(of_nnx(*arguments)), jax.tree.leaves(whole), rtol=1e-5, atol=1e-6)
    noisy = chunked(parameters, QUERIES["x"], key=jax.random.key(0))
    assert np.abs(noisy - encode(parameters, QUERIES["x"])).max() > 0.1


def test_flax_linen():
    class Tower(nn.Module):
        @nn.compact
        def __call__(self, x, *, deterministic=True):
            hidden = nn.Dropout(0.5, deterministic=deterministic)(nn.relu(nn.Dense(32)(x)))
            return nn.Dense(8)(hidden)

    tower = Tower()
    variables = tower.init(jax.random.key(0), QUERIES["x"])
    arguments = (variables, QUERIES["x"], TARGETS["x"])
    chunked = step(functools.partial(encode_in_chunks, tower.apply, chunk_size=5), *arguments)
    chex.assert_trees_all_close(chunked, step(tower.apply, *arguments), rtol=1e-5, atol=1e-6)

    def noisy(variables, x, key):
        return tower.apply(variables, x, deterministic=False, rngs={"dropout": key})

    found = encode_in_chunks(noisy, variables, QUERIES["x"], chunk_size=5, key=jax.random.key(0))
    assert np.abs(found - tower.apply(variables, QUERIES["x"])).max() > 0.1


# ------------------------------------------------------------------------------------------------------------- devices


def sides(rows):
    return [
        {"x": rng.normal(size=(rows, FEATURES)).astype(np.float32), "scale": 1 + rng.random(rows)} for _ in range(2)
    ]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_rows_stay_where_they_are(axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    arguments = (PARAMETERS, *sides(32))
    expected = step(mlp, *arguments)
    sharded = jax.device_put(arguments[1:], NamedSharding(mesh, PartitionSpec("data")))
    chunked = functools.partial(encode_in_chunks, mlp, chunk_size=16)
    with jax.set_mesh(mesh):
        if axis_type == AxisType.Auto:
            chex.assert_trees_all_close(step(chunked, PARAMETERS, *sharded), expected, rtol=1e-5, atol=1e-6)
        function = jax.jit(lambda p, x: jax.grad(lambda p: jnp.sum(chunked(p, x) ** 2))(p))
        replicated = jax.device_put(PARAMETERS, NamedSharding(mesh, PartitionSpec()))
        program = function.lower(replicated, sharded[0]).compile().as_text()
    for exchange in (" all-gather(", " all-to-all(", " collective-permute("):
        assert exchange not in program


def test_sharded_rows_that_do_not_divide():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    arguments = (PARAMETERS, *sides(24))
    sharded = jax.device_put(arguments[1:], NamedSharding(mesh, PartitionSpec("data")))
    chunked = functools.partial(encode_in_chunks, mlp, chunk_size=10)
    chex.assert_trees_all_close(step(chunked, PARAMETERS, *sharded), step(mlp, *arguments), rtol=1e-5, atol=1e-6)


def test_inside_shard_map():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    by_row, replicated = PartitionSpec(("data", "fsdp")), PartitionSpec()
    arguments = (PARAMETERS, *sides(24))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(replicated, by_row, by_row), out_specs=replicated)
    def local_step(parameters, queries, targets):
        def loss(parameters):
            q, t = (encode_in_chunks(mlp, parameters, rows, chunk_size=2) for rows in (queries, targets))
            return ega_loss(q, t, temperature=0.1, axis_name=("data", "fsdp"))

        return jax.value_and_grad(loss)(parameters)

    chex.assert_trees_all_close(jax.jit(local_step)(*arguments), step(mlp, *arguments), rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- errors

BAD_CALLS = {
    "chunk_size": ({"chunk_size": 0}, "chunk_size must be at least 1"),
    "no inputs": ({"inputs": {}}, "inputs must be arrays of equally many rows"),
    "a scalar": ({"inputs": {**QUERIES, "n": 3}}, "inputs must be arrays of equally many rows"),
    "no rows": ({"inputs": np.ones((0, 3))}, "at least one"),
    "unequal rows": ({"inputs": {**QUERIES, "scale": np.ones(21)}}, r"got shapes \[\(21,\), \(22, 6\)\]"),
    "a mean": ({"encode": lambda p, rows: jnp.mean(rows["x"])}, r"returned shape \(\) for a chunk of 6 rows"),
    "one vector": (
        {"encode": lambda p, rows: jnp.mean(rows["x"], 0), "chunk_size": 5},
        "which must be its leading axis",
    ),
    "one vector of as many entries": (
        {"encode": lambda p, rows: rows["x"].T[:1], "chunk_size": 22},
        "for a chunk of 22 rows",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    given, message = BAD_CALLS[name]
    arguments = {"encode": mlp, "parameters": PARAMETERS, "inputs": QUERIES, "chunk_size": 6, **given}
    with pytest.raises(ValueError, match=message):
        encode_in_chunks(**arguments)
