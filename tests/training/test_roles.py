"""Every parameter has a role, the table tells it, and what contradicts itself is refused."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ega_jax.errors import BadInputError
from ega_jax.models import LoraConfig, build
from ega_jax.models.functional import Functional
from ega_jax.training.config import ModelSettings, OptimizerSettings
from ega_jax.training.optimizer import make_optimizer
from ega_jax.training.roles import Role, held_dtypes, learning_rate_factors, role_table, roles_of, split

QUERIES = LoraConfig(rank=4, paths=(r"language_model/.*/q_proj", "projector/"))


def functional(lora=None):
    return Functional(lambda rngs: build("llava_onevision_tiny", rngs=rngs, lora=lora))


@pytest.fixture(scope="module")
def plain():
    return functional().parameters


@pytest.fixture(scope="module")
def adapted():
    return functional(QUERIES)


def test_everything_is_trained_unless_told_otherwise(plain):
    assert set(roles_of(plain, ModelSettings()).values()) == {Role.TRAINED}
    roles = roles_of(plain, ModelSettings(frozen=("vision_tower/", "image_newline")))
    frozen = {path for path, role in roles.items() if role is Role.FROZEN}
    assert frozen == {path for path in plain if path.startswith(("vision_tower/", "image_newline"))}
    roles = roles_of(plain, ModelSettings(trained=("projector/",), frozen=("vision_tower/",)))
    assert {path for path, role in roles.items() if role.is_trained} == {p for p in plain if p.startswith("projector/")}


def test_with_adapters_the_rest_is_frozen(adapted):
    roles = roles_of(adapted.parameters, ModelSettings(trained=("image_newline",)))
    assert set(roles) == set(adapted.parameters)
    by_role = {role: {path for path in roles if roles[path] is role} for role in Role}
    layers = "language_model/decoder/layers/self_attn/q_proj"
    linears = {layers, "projector/linear_1", "projector/linear_2"}
    assert by_role[Role.ADAPTER] == {f"{path}/lora/{name}" for path in linears for name in "ab"}
    assert by_role[Role.ADAPTED] == {f"{path}/kernel" for path in linears}
    assert by_role[Role.TRAINED] == {"image_newline"}
    assert {"projector/linear_1/bias", "language_model/embed_tokens/embedding"} < by_role[Role.FROZEN]


def test_parting_loses_nothing(adapted):
    roles = roles_of(adapted.parameters, ModelSettings())
    trained, frozen = split(adapted.parameters, roles)
    assert {**trained, **frozen} == adapted.parameters
    assert not set(trained) & set(frozen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": ("vision_twoer/",)}, "model.frozen: 'vision_twoer/' matches no parameter.*vision_tower"),
        ({"trained": ("nothing",)}, "model.trained: 'nothing' matches no parameter"),
        ({"frozen": ("(",)}, r"model.frozen: '\(' is not a regular expression"),
        ({"frozen": ("vision_tower/",), "trained": ("vision_tower/patch",)}, "both match vision_tower/patch"),
    ],
)
def test_expressions_must_make_sense(plain, adapted, settings, message):
    for parameters in (plain, adapted.parameters):
        with pytest.raises(BadInputError, match=message):
            roles_of(parameters, ModelSettings(**settings))


def test_contradictions_with_adapters_are_told(plain, adapted):
    with pytest.raises(BadInputError, match="nothing is left"):
        roles_of(plain, ModelSettings(frozen=(".*",)))
    with pytest.raises(BadInputError, match="matches projector/linear_1/kernel and 1 more, which carry adapters"):
        roles_of(adapted.parameters, ModelSettings(trained=("projector/",)))
    with pytest.raises(BadInputError, match="matches the adapters projector/linear_1/lora/a and 3 more"):
        roles_of(adapted.parameters, ModelSettings(frozen=("projector/",)))
    roles_of(adapted.parameters, ModelSettings(frozen=("vision_tower/",)))  # it is frozen anyway


def test_frozen_matrices_are_held_in_the_type_of_the_products(adapted):
    def dtypes(**settings):
        settings = ModelSettings(trained=("image_newline",), **settings)
        return held_dtypes(adapted, roles_of(adapted.parameters, settings), settings)

    found = dtypes(dtype="bfloat16")
    assert found["language_model/decoder/layers/self_attn/q_proj/kernel"] == jnp.bfloat16
    assert found["language_model/embed_tokens/embedding"] == jnp.bfloat16
    float32 = {path for path, dtype in found.items() if dtype == jnp.float32}
    for name in (
        "self_attn/q_proj/lora/a",
        "self_attn/q_proj/lora/b",
        "self_attn/q_proj/bias",
        "input_layernorm/scale",
    ):
        assert f"language_model/decoder/layers/{name}" in float32
    assert "image_newline" in float32
    assert set(dtypes(dtype="float32").values()) == {jnp.dtype("float32")}
    assert set(dtypes(dtype="bfloat16", frozen_dtype="float32").values()) == {jnp.dtype("float32")}


def test_the_table_counts_every_parameter_once(adapted):
    settings = ModelSettings(dtype="bfloat16", trained=("image_newline",))
    roles = roles_of(adapted.parameters, settings)
    dtypes = held_dtypes(adapted, roles, settings)
    shapes = {path: leaf.update(dtype=dtypes[path]) for path, leaf in adapted.parameters.items()}
    trained, _ = split(shapes, roles)
    table = role_table(shapes, roles, learning_rate_factors(trained, {"projector/": 0.5}))
    lines = [line.split() for line in table.splitlines()]
    assert lines[0][:2] == ["part", "role"]
    assert lines[-1][1:3] == [str(len(shapes)), f"{sum(leaf.size for leaf in shapes.values()):,}"]
    assert ["projector", "adapter", "0.5", "4"] in [line[:4] for line in lines]
    assert ["language_model", "adapter", "1", "2"] in [line[:4] for line in lines]
    assert ["vision_tower", "frozen", "-"] in [line[:3] for line in lines]
    assert sum(int(line[3]) for line in lines[1:-1]) == len(shapes)
    adapters = sum(leaf.size for path, leaf in shapes.items() if "/lora/" in path)
    assert lines[-1][-2:] == [f"{2 * 4 * (adapters + 128) / 1e6:.2f}", "MB"]


def test_learning_rates_by_group(adapted):
    paths = [path for path, role in roles_of(adapted.parameters, ModelSettings()).items() if role.is_trained]
    factors = {"projector/linear_1": 0.25, "projector/": 4.0}
    found = learning_rate_factors(paths, factors)
    assert found["projector/linear_1/lora/a"] == 0.25
    assert found["projector/linear_2/lora/a"] == 4.0
    assert found["language_model/decoder/layers/self_attn/q_proj/lora/b"] == 1.0
    with pytest.raises(BadInputError, match="'projector/linear_1' comes too late"):
        learning_rate_factors(paths, {"projector/": 4.0, "projector/linear_1": 0.25})
    with pytest.raises(BadInputError, match="'vision_tower/' matches no parameter"):
        learning_rate_factors(paths, {"vision_tower/": 0.1})


def test_a_factor_is_a_learning_rate_of_its_own():
    """Two groups under factors 1 and 0.1 move as in two optimizers with those rates, weight decay included."""
    rng = np.random.default_rng(0)
    parameters = {"fast/kernel": jnp.float32(rng.normal(size=(4, 3))), "slow/kernel": jnp.float32(rng.normal(size=5))}
    gradients = {path: jnp.float32(0.01 * rng.normal(size=value.shape)) for path, value in parameters.items()}

    def moved(**settings):
        optimizer, _ = make_optimizer(OptimizerSettings(weight_decay=0.1, warmup=0.0, **settings), steps=10)
        updates, _ = optimizer.update(gradients, optimizer.init(parameters), parameters)
        return optax.apply_updates(parameters, updates)

    both = moved(learning_rate=1e-2, learning_rate_factors={"slow/": 0.1})
    np.testing.assert_array_equal(both["fast/kernel"], moved(learning_rate=1e-2)["fast/kernel"])
    expected = moved(learning_rate=1e-3)["slow/kernel"]
    np.testing.assert_allclose(
        both["slow/kernel"] - parameters["slow/kernel"], expected - parameters["slow/kernel"], rtol=2e-4
    )
