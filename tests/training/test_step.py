"""The step is the same function on any mesh and in any chunks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ega_jax.data.mmeb import find_subsets, read_train
from ega_jax.data.pipeline import TrainingBatches, global_groups
from ega_jax.errors import BadInputError
from ega_jax.losses import ega_loss
from ega_jax.models import LoraConfig
from ega_jax.models.attention import _BACKENDS
from ega_jax.models.attention.splash import splash_attention
from ega_jax.plan.costs import costs_of
from ega_jax.plan.hlo import parse
from ega_jax.training.config import LossSettings, MeshSettings, ModelSettings
from ega_jax.training.optimizer import make_optimizer
from ega_jax.training.roles import roles_of
from ega_jax.training.setup import make_setup, write_model_directory
from ega_jax.training.sharding import batch_devices, batch_sharding, make_mesh, parameter_shardings
from ega_jax.training.step import (
    embed_batch,
    embed_sides,
    frozen_features_policy,
    initial_state,
    state_shardings,
    to_global,
    train_step,
)
from ega_jax.training.train import texts_of

from ..colours import write_colours
from ..micro import config

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("cheap_compiles")]


@pytest.fixture(scope="module")
def subsets(tmp_path_factory):
    directory = write_colours(tmp_path_factory.mktemp("colours") / "data")
    return [read_train(directory, info.name) for info in find_subsets(directory, "train")]


@pytest.fixture(scope="module")
def model_dir(subsets, tmp_path_factory):
    model = tmp_path_factory.mktemp("run") / "model"
    write_model_directory(config, model, lambda: texts_of(subsets))
    return model


@pytest.fixture(scope="module")
def setup(model_dir):
    return make_setup(config, model_dir)


@pytest.fixture(scope="module", params=[("micro", (0, 5)), ("micro_qqmm", (0, 64))], ids=["llava", "qqmm"])
def backbone(request, subsets, tmp_path_factory):
    """The setup of a backbone, a step with negatives, and its gradient on one device."""
    preset, image_buckets = request.param
    settings = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, preset=preset, system_prompt=""),  # QQMM's own is long
        data=dataclasses.replace(config.data, image_buckets=image_buckets),
    )
    model = tmp_path_factory.mktemp(preset) / "model"
    write_model_directory(settings, model, lambda: texts_of(subsets))
    setup = make_setup(settings, model)
    source = batches(subsets, setup, one_device())
    step = step_with_negatives(source)
    return setup, step, gradients(setup, one_device(), source, step, symmetric=True)


def batches(subsets, setup, mesh, chunk_size=None, steps=20, **options):
    return TrainingBatches(
        subsets,
        setup.processor,
        setup.buckets,
        steps=steps,
        batch_size=16,
        sub_batch_size=8,
        seed=1,
        groups=global_groups(batch_devices(mesh), 16, chunk_size),
        **options,
    )


@functools.cache
def drawn(functional):
    """Its first parameters: to compile the drawing of them takes as long as to compile a step."""
    return jax.tree.map(np.asarray, functional.initialize(0))


def start(setup, mesh, optimizer, loss):
    """The update as the trainer compiles it, and the state to begin with."""
    functional = setup.functional
    roles = roles_of(functional.parameters, config.model)
    make_state = functools.partial(initial_state, optimizer=optimizer, roles=roles)
    places = parameter_shardings(functional, mesh)
    shardings = state_shardings(jax.eval_shape(make_state, functional.parameters), places, mesh)
    state = jax.jit(make_state, out_shardings=shardings)(jax.device_put(drawn(functional), places))
    step = functools.partial(train_step, functional=functional, optimizer=optimizer, loss=loss, mesh=mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)), state


def run(setup, mesh, source, steps, optimizer, loss):
    """Metrics of `steps` updates, each as an array, and the parameters after them."""
    update, state = start(setup, mesh, optimizer, loss)
    seen = []
    for number in steps:
        state, metrics = update(state, to_global(source[number], mesh))
        seen.append(jax.device_get(metrics))
    places = parameter_shardings(setup.functional, mesh)
    assert all(array.sharding == places[path] for path, array in state["trained"].items())
    return jax.tree.map(lambda *values: np.array(values), *seen), jax.tree.map(np.asarray, state["trained"])


def gradients(setup, mesh, source, step, **loss):
    """The gradient of one step: with plain descent at rate 1 it is the change of the parameters."""
    start = drawn(setup.functional)
    _, end = run(setup, mesh, source, [step], optax.sgd(1.0), LossSettings(temperature=0.1, **loss))
    return {path: start[path] - end[path] for path in start}


def assert_same_gradients(found, expected):
    scale = max(np.abs(value).max() for value in expected.values())
    assert scale > 1e-2
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, atol=1e-5 * scale, err_msg=path)


def one_device():
    return make_mesh(MeshSettings(), jax.devices()[:1])


def step_with_negatives(source):
    return next(step for step in range(len(source)) if source.plan(step).negatives)


@pytest.mark.parametrize(
    ("sizes", "exchange"),
    [
        ({"data": 8}, "all_gather"),
        ({"data": 1, "fsdp": 8}, "ring"),
        ({"data": 2, "fsdp": 2, "tensor": 2}, "all_gather"),
        ({"data": 2, "fsdp": 2, "tensor": 2}, "ring"),
    ],
)
def test_the_gradient_is_the_same_on_every_mesh(subsets, backbone, sizes, exchange):
    """With explicit negatives and both directions: each device has its own positives before its own negatives."""
    setup, step, expected = backbone
    mesh = make_mesh(MeshSettings(**sizes))
    source = batches(subsets, setup, mesh)
    assert_same_gradients(gradients(setup, mesh, source, step, symmetric=True, exchange=exchange), expected)


@pytest.mark.parametrize("chunk_size", [4, 1])
def test_chunks_give_the_gradient_of_the_whole_batch(subsets, setup, chunk_size):
    mesh = one_device()
    whole = batches(subsets, setup, mesh)
    step = step_with_negatives(whole)
    expected = gradients(setup, mesh, whole, step)
    chunked = batches(subsets, setup, mesh, chunk_size)
    assert chunked[step]["queries"]["input_ids"].shape[0] == 16 // chunk_size
    assert_same_gradients(gradients(setup, mesh, chunked, step), expected)


def test_chunks_on_a_mesh_too(subsets, setup):
    mesh = make_mesh(MeshSettings(data=4, fsdp=2))
    expected = gradients(setup, one_device(), batches(subsets, setup, one_device()), 0)
    assert_same_gradients(gradients(setup, mesh, batches(subsets, setup, mesh, 1), 0), expected)


def test_sides_of_one_shape_are_embedded_in_one_loop():
    mesh = make_mesh(MeshSettings(data=4, fsdp=2))
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    make = functools.partial(jax.device_put, device=batch_sharding(mesh))
    queries, targets = ({"x": make(rng.normal(size=(16, 2, 5)).astype(np.float32))} for _ in range(2))

    def embed(weights, inputs):
        return jnp.tanh(inputs["x"] @ weights)

    def together(weights, queries, targets):
        found = embed_sides(embed, weights, queries, targets, mesh)
        return sum(jnp.sum(jnp.sin(side) * (1 + place)) for place, side in enumerate(found)), found

    def apart(weights, queries, targets):
        found = [embed_batch(embed, weights, side, mesh) for side in (queries, targets)]
        return sum(jnp.sum(jnp.sin(side) * (1 + place)) for place, side in enumerate(found)), found

    results = [jax.jit(jax.value_and_grad(of, has_aux=True)) for of in (together, apart)]
    (_, found), gradient = results[0](weights, queries, targets)
    (_, expected), expected_gradient = results[1](weights, queries, targets)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
        assert one.sharding.shard_shape(one.shape) == (4, 3)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5)
    program, twice = (of.lower(weights, queries, targets) for of in results)
    assert 2 * program.as_text().count("stablehlo.while") == twice.as_text().count("stablehlo.while") > 0
    moved = ("all-gather", "all-to-all", "collective-permute")
    assert not any(name in program.compile().as_text() for name in moved)


def test_pictures_that_do_not_fit_are_an_error_or_shrink_by_setting(subsets, setup, model_dir):
    few = dataclasses.replace(config, data=dataclasses.replace(config.data, image_buckets=(0, 2)))
    with pytest.raises(BadInputError, match=r"data\.on_large_images shrink"):
        batches(subsets, make_setup(few, model_dir), one_device(), chunk_size=1)
    shrink = dataclasses.replace(few, data=dataclasses.replace(few.data, on_large_images="shrink"))
    source = batches(subsets, make_setup(shrink, model_dir), one_device(), chunk_size=1)
    assert max(source.plan(step).queries.units.max() for step in range(len(source))) == 2
    assert source[0]["queries"]["tiles"].shape[1] <= 2


def test_a_kernel_is_split_over_the_mesh(subsets, setup, model_dir, monkeypatch):
    """Splash attention, interpreted; the tower's two heads are split over "tensor", the decoder's one is not."""
    monkeypatch.setitem(_BACKENDS, "splash", functools.partial(splash_attention, interpret=True))
    settings = dataclasses.replace(config.model, attention="splash")
    kernel = make_setup(dataclasses.replace(config, model=settings), model_dir)
    mesh = make_mesh(MeshSettings(data=2, tensor=2), jax.devices()[:4])
    expected = gradients(setup, one_device(), batches(subsets, setup, one_device()), 0)
    assert_same_gradients(gradients(kernel, mesh, batches(subsets, kernel, mesh), 0), expected)


def test_a_short_batch_gives_the_gradient_of_its_rows_alone(subsets, setup):
    few = [subset.take(range(13)) for subset in subsets]
    mesh = make_mesh(MeshSettings(data=4, fsdp=2))
    source = batches(few, setup, mesh, steps=None, epochs=1)
    step = next(
        step for step in range(len(source)) if source.plan(step).negatives and not source.plan(step).weights.all()
    )
    batch = source[step]
    assert batch["weights"].sum() == 13
    rows, columns = np.flatnonzero(batch["weights"]), np.flatnonzero(batch["target_mask"])
    positives = np.searchsorted(columns, batch["positives"][rows])

    def loss(parameters):
        queries, targets = (
            jax.vmap(functools.partial(setup.functional.embed, parameters))(batch[side])
            for side in ("queries", "targets")
        )
        return ega_loss(
            queries.reshape(16, -1)[rows],
            targets.reshape(len(batch["target_mask"]), -1)[columns],
            positives=positives,
            query_ids=batch["query_ids"][rows],
            target_ids=batch["target_ids"][columns],
            temperature=0.1,
            symmetric=True,
        )

    expected = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(drawn(setup.functional)))
    assert_same_gradients(gradients(setup, mesh, source, step, symmetric=True), expected)


def test_matryoshka_dimensions_give_the_gradient_of_the_explicit_mean(subsets, setup):
    mesh = one_device()
    batch = batches(subsets, setup, mesh)[0]

    def mean_of_losses(parameters):
        queries, targets = (
            setup.functional.embed(parameters, jax.tree.map(lambda x: x[0], batch[side]))
            for side in ("queries", "targets")
        )
        labels = {name: batch[name] for name in ("positives", "query_ids", "target_ids", "target_mask")}
        # `ega_loss` normalises what was cut.
        cut = [ega_loss(queries[:, :d], targets[:, :d], temperature=0.1, **labels) for d in (16, 4, 8)]
        return sum(cut) / 3

    expected = jax.tree.map(np.asarray, jax.jit(jax.grad(mean_of_losses))(drawn(setup.functional)))
    assert_same_gradients(
        gradients(setup, mesh, batches(subsets, setup, mesh), 0, matryoshka_dimensions=(4, 8)), expected
    )


def test_twenty_steps_agree_on_one_and_eight_devices(subsets, setup):
    optimizer, _ = make_optimizer(config.optimizer, 20)
    alone, eight = one_device(), make_mesh(MeshSettings(data=4, fsdp=2))
    first, _ = run(setup, alone, batches(subsets, setup, alone, max_programs=2), range(20), optimizer, config.loss)
    second, _ = run(setup, eight, batches(subsets, setup, eight, max_programs=2), range(20), optimizer, config.loss)
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.ptp(first["loss"]) > 0.1


def test_the_exchange_is_the_one_that_was_set(subsets, setup):
    """The step's loss is the one that exchanges targets, not one left to the partitioner."""
    mesh = make_mesh(MeshSettings(data=4, fsdp=2))
    source = batches(subsets, setup, mesh)
    programs = {}
    for exchange in ("all_gather", "ring"):
        roles = roles_of(setup.functional.parameters, config.model)
        state = initial_state(drawn(setup.functional), optax.sgd(1.0), roles)
        loss = LossSettings(temperature=0.1, exchange=exchange)
        step = functools.partial(
            train_step, functional=setup.functional, optimizer=optax.sgd(1.0), loss=loss, mesh=mesh
        )
        programs[exchange] = jax.jit(step).lower(state, to_global(source[0], mesh)).as_text()
    for exchange, program in programs.items():
        assert ("stablehlo.collective_permute" in program) == (exchange == "ring")
        assert ("stablehlo.all_gather" in program) == (exchange == "all_gather")


def test_one_program_a_shape_and_no_more_than_were_allowed(subsets, setup):
    """Counts the programs that XLA has been given for steps over rows of many lengths and pictures of many sizes."""
    mesh, most = make_mesh(MeshSettings(), jax.devices()[:1]), 2
    source = batches(subsets, setup, mesh, steps=8, max_programs=most)
    update, state = start(setup, mesh, optax.sgd(1e-3), config.loss)
    contents = {}
    for number in range(len(source)):
        batch = source[number]
        program = source.plan(number).program
        contents.setdefault(program, set()).add(
            tuple(int(batch[side]["attention_mask"].sum()) for side in ("queries", "targets"))
        )
        state, _ = update(state, to_global(batch, mesh))
        assert update._cache_size() == len(contents)
    assert len(contents) == most
    assert all(len(different) > 1 for different in contents.values()), "steps of one program were all alike"


@pytest.fixture(scope="module")
def adapted(subsets, tmp_path_factory):
    """The model with adapters on every linear map, the towers' too."""
    lora = LoraConfig(rank=3, paths=("language_model/", "vision_tower/", "projector/"))
    with_lora = dataclasses.replace(config, model=dataclasses.replace(config.model, lora=lora))
    model = tmp_path_factory.mktemp("adapted") / "model"
    write_model_directory(with_lora, model, lambda: texts_of(subsets))
    return make_setup(with_lora, model)


def test_adapters_train_alike_on_one_and_eight_devices(subsets, adapted):
    optimizer, _ = make_optimizer(dataclasses.replace(config.optimizer, learning_rate=3e-2), 6)
    alone, eight = one_device(), make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    sources = [batches(subsets, adapted, mesh, max_programs=2) for mesh in (alone, eight)]
    first, one = run(adapted, alone, sources[0], range(6), optimizer, config.loss)
    second, other = run(adapted, eight, sources[1], range(6), optimizer, config.loss)
    np.testing.assert_allclose(second["loss"], first["loss"], rtol=1e-4)
    assert all("/lora/" in path for path in one)
    assert set(one) == set(other)
    assert all(np.abs(value).max() > 1e-3 for path, value in one.items() if path.endswith("/b"))


def test_frozen_parameters_stay(subsets, setup):
    mesh = one_device()
    functional, optimizer = setup.functional, optax.adam(1e-2)
    roles = roles_of(functional.parameters, ModelSettings(frozen=("vision_tower/",)))
    state = initial_state(drawn(functional), optimizer, roles)
    frozen = jax.tree.map(np.asarray, state["frozen"])
    trained = jax.tree.map(np.asarray, state["trained"])
    source = batches(subsets, setup, mesh)
    step = jax.jit(
        functools.partial(train_step, functional=functional, optimizer=optimizer, loss=config.loss, mesh=mesh)
    )
    new, metrics = step(state, to_global(source[0], mesh))
    jax.tree.map(np.testing.assert_array_equal, new["frozen"], frozen)
    assert any(not np.array_equal(new["trained"][path], trained[path]) for path in trained)
    assert int(new["step"]) == 1
    assert np.isfinite([float(value) for value in metrics.values()]).all()


def test_a_frozen_tower_sees_each_picture_once(subsets, setup):
    """GradCache keeps its features: the same gradient, without one more pass of the tower over every chunk."""
    mesh, functional, optimizer = one_device(), setup.functional, optax.sgd(1.0)
    source = batches(subsets, setup, mesh, 4)
    batch = to_global(source[step_with_negatives(source)], mesh)
    tiles = [batch[side]["tiles"] for side in ("queries", "targets")]
    assert all(len(side) == 4 for side in tiles)

    def update(keep):
        roles = roles_of(functional.parameters, ModelSettings(frozen=("vision_tower/",)))
        state = initial_state(drawn(functional), optimizer, roles)
        arguments = {"functional": functional, "optimizer": optimizer, "loss": config.loss, "mesh": mesh}
        step = functools.partial(train_step, **arguments, keep_frozen_features=keep)
        program = jax.jit(step).lower(state, batch).compile()
        new, _ = program(state, batch)
        gradient = {path: np.asarray(state["trained"][path] - value) for path, value in new["trained"].items()}
        return costs_of(parse(program.as_text()), [0]).flops, gradient

    (cheap, found), (dear, expected) = (update(keep) for keep in (True, False))
    assert_same_gradients(found, expected)

    model = functional.merge(drawn(functional))
    forward = jax.jit(lambda tiles: model.vision_tower(model.normalize(tiles)))
    once = sum(
        len(side) * costs_of(parse(forward.lower(side[0]).compile().as_text()), [0]).flops
        for side in tiles
        if side.shape[1]
    )
    assert dear - cheap == once > 0
    # Where its features depend on what is trained there is nothing to keep.
    assert frozen_features_policy(["projector/0/kernel", "vision_tower/encoder/layers/lora/a"]) is None


def test_peak_memory_falls_with_the_chunk(subsets, setup):
    mesh = one_device()

    def temporaries(chunk_size):
        source = batches(subsets, setup, mesh, chunk_size)
        optimizer = optax.sgd(1.0)
        roles = roles_of(setup.functional.parameters, config.model)
        state = initial_state(drawn(setup.functional), optimizer, roles)
        step = functools.partial(
            train_step, functional=setup.functional, optimizer=optimizer, loss=config.loss, mesh=mesh
        )
        compiled = jax.jit(step).lower(state, to_global(source[0], mesh)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(2) < 0.5 * temporaries(None)
