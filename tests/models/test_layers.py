"""Layers against float64 numpy, and what a stack of them promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ega_jax.models.attention import attention
from ega_jax.models.functional import Functional, embed_groups
from ega_jax.models.layers import (
    _REMAT_POLICIES,
    Compute,
    Embed,
    LayerNorm,
    Linear,
    RMSNorm,
    Stack,
    logical_axes,
    rotary_angles,
    rotate,
)
from ega_jax.models.qwen2 import Qwen2
from ega_jax.models.qwen2_config import Qwen2Config

SMALL = Qwen2Config(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def test_norms_equal_float64_reference_and_stay_float32_inside():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 16)) * 10 + 30
    scale, bias = rng.normal(size=(2, 16))
    layer, rms = LayerNorm(16, eps=1e-3, axes=("embed",)), RMSNorm(16, eps=1e-3, axes=("embed",))
    layer.scale[...], layer.bias[...], rms.scale[...] = (jnp.float32(a) for a in (scale, bias, scale))
    expected_layer = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3) * scale + bias
    expected_rms = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * scale
    np.testing.assert_allclose(layer(jnp.float32(x)), expected_layer, atol=1e-5)
    np.testing.assert_allclose(rms(jnp.float32(x)), expected_rms, atol=1e-5)

    low = jnp.bfloat16(x)
    assert layer(low).dtype == rms(low).dtype == jnp.bfloat16
    assert rms(low, dtype="float32").dtype == jnp.float32
    exact = np.asarray(low, np.float64)
    expected_rms = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-3) * scale
    np.testing.assert_allclose(rms(low, dtype="float32"), expected_rms, atol=1e-5)


def test_rotary_turns_pairs_by_position_times_frequency():
    positions, theta = np.array([[0, 1, 257, 20000]]), 1e6
    x = np.random.default_rng(0).normal(size=(1, 4, 2, 8)).astype(np.float32)
    frequencies = theta ** (-np.arange(0, 8, 2) / 8)
    turned = x[..., :4] + 1j * x[..., 4:]
    turned = turned * np.exp(1j * positions[..., None] * frequencies)[:, :, None]
    expected = np.concatenate([turned.real, turned.imag], -1)
    angles = rotary_angles(jnp.asarray(positions), 8, theta)
    # Float32 angles are good to 20000 * 2^-24 radians.
    np.testing.assert_allclose(rotate(jnp.asarray(x), angles), expected, atol=5e-3)
    np.testing.assert_allclose(rotate(jnp.asarray(x), angles)[:, :3], expected[:, :3], atol=1e-4)
    np.testing.assert_array_equal(rotate(jnp.asarray(x), angles)[:, 0], x[:, 0])


def test_rotary_angles_turn_by_the_position_of_their_section():
    positions = np.random.default_rng(0).integers(0, 900, (2, 5, 3))
    by_axis = [rotary_angles(jnp.asarray(positions[..., axis]), 16, 1e4) for axis in range(3)]
    got = rotary_angles(jnp.asarray(positions), 16, 1e4, (1, 4, 3))
    for trigonometric in (0, 1):
        time, height, width = (angles[trigonometric] for angles in by_axis)
        expected = np.concatenate([time[..., :1], height[..., 1:5], width[..., 5:]], -1)
        np.testing.assert_array_equal(got[trigonometric], expected)


def test_linear_computes_in_its_dtype_and_holds_float32():
    linear = Linear(4, 3, axes=("embed", "mlp"), compute=Compute(dtype="bfloat16"), rngs=nnx.Rngs(0))
    assert linear.kernel.dtype == linear.bias.dtype == jnp.float32
    assert linear(jnp.ones((2, 4))).dtype == jnp.bfloat16
    no_bias = Linear(4, 3, axes=("embed", "mlp"), compute=Compute(), rngs=nnx.Rngs(0), use_bias=False)
    assert no_bias.bias is None


def test_gradient_of_a_frequent_token_adds_up_in_float32():
    embed = Embed(3, 2, compute=Compute(dtype="bfloat16"), rngs=nnx.Rngs(0))
    ids = jnp.array([1] * 1000 + [2])
    gradient = jax.grad(lambda embed: embed(ids).astype(jnp.float32).sum())(embed)
    np.testing.assert_allclose(gradient.embedding[...], [[0, 0], [1000, 1000], [1, 1]])


@pytest.fixture(scope="module")
def small():
    return Qwen2(SMALL, compute=Compute(), rngs=nnx.Rngs(0))


def loss_of(graphdef):
    """A function of a Qwen2's state: something of its hidden states over a padded batch."""
    mask = jnp.array([[True] * 12, [True] * 7 + [False] * 5])
    ids = jnp.arange(24).reshape(2, 12)

    def loss(state):
        model = nnx.merge(graphdef, state)
        hidden = model(model.embed_tokens(ids), mask, jnp.cumsum(mask, -1) - 1)
        return (jnp.sin(hidden) * mask[..., None]).sum()

    return loss


def test_stack_equals_its_layers_one_by_one(small):
    kernel = small.decoder.layers.mlp.up_proj.kernel[...]
    assert kernel.shape == (3, 32, 48)
    assert not np.allclose(kernel[0], kernel[1])  # each layer has its own weights
    mask, x = jnp.ones((1, 6), bool), jax.random.normal(jax.random.key(0), (1, 6, 32))
    angles = rotary_angles(jnp.arange(6)[None], SMALL.head_dim, SMALL.rope_theta)
    expected, run = x, jax.jit(lambda layer, *args: layer(*args))
    for i in range(3):
        expected = run(jax.tree.map(lambda leaf, i=i: leaf[i], small.decoder.layers), expected, mask, angles)
    np.testing.assert_allclose(small.decoder(x, mask, angles), expected, atol=1e-5)


def test_remat_changes_no_gradient_but_what_is_kept(small):
    reference, temporaries, state = None, {}, nnx.state(small)
    for remat in ("none", "dots", "full"):
        compute = Compute(remat=remat)
        graphdef = nnx.split(nnx.eval_shape(lambda: Qwen2(SMALL, compute=compute, rngs=nnx.Rngs(0))))[0]  # noqa: B023
        compiled = jax.jit(jax.grad(loss_of(graphdef))).lower(state).compile()
        temporaries[remat] = compiled.memory_analysis().temp_size_in_bytes
        gradients = compiled(state)
        reference = gradients if reference is None else reference
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradients, reference)
    assert temporaries["none"] > temporaries["dots"] > temporaries["full"]


def test_dots_keeps_what_a_kernel_made_and_not_what_an_adapter_adds(capsys):
    kernel, down, up = (jnp.ones(shape) for shape in ((96, 160), (96, 8), (8, 160)))

    @functools.partial(jax.checkpoint, policy=_REMAT_POLICIES["dots"])
    def layer(x, down, up):
        return jnp.sin(x @ kernel + (x @ down) @ up)

    jax.ad_checkpoint.print_saved_residuals(layer, jnp.ones((32, 96)), down, up)
    kept = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "argument" not in line]
    assert sorted(kept) == ["f32[32,160]", "f32[32,8]", "f32[96,160]"]  # with the kernel itself, a constant


def test_compute_names_wrong_settings():
    with pytest.raises(ValueError, match="float16"):
        Compute(dtype="float16")
    with pytest.raises(ValueError, match="everything"):
        Compute(remat="everything")


def test_logical_axes_name_every_axis_and_lead_with_layers():
    model = nnx.eval_shape(lambda: Qwen2(SMALL, compute=Compute(), rngs=nnx.Rngs(0)))
    axes = dict(nnx.to_flat_state(logical_axes(nnx.state(model))))
    shapes = {path: variable.shape for path, variable in nnx.to_flat_state(nnx.state(model))}
    assert {path: len(names) for path, names in axes.items()} == {path: len(s) for path, s in shapes.items()}
    assert axes[("embed_tokens", "embedding")] == ("vocab", "embed")
    assert axes[("norm", "scale")] == ("embed",)
    assert axes[("decoder", "layers", "mlp", "down_proj", "kernel")] == ("layers", "mlp", "embed")
    assert axes[("decoder", "layers", "self_attn", "k_proj", "bias")] == ("layers", "heads")
    sizes = {"vocab": {50}, "embed": {32}, "mlp": {48}, "heads": {32, 16}, "layers": {3}}
    for path, names in axes.items():
        assert all(size in sizes[name] for name, size in zip(names, shapes[path], strict=True)), path


def test_logical_axes_refuse_a_variable_without_names():
    state = nnx.state(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"bias.*axes None"):
        logical_axes(state)


def test_kernels_have_unit_gain():
    x = jax.random.normal(jax.random.key(1), (64, 256))
    linear = Linear(256, 700, axes=("embed", "mlp"), compute=Compute(), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(linear(x).std(), 1, atol=0.03)


class Mlp(nnx.Module):
    def __init__(self, rngs):
        wide = {"compute": Compute(), "rngs": rngs}
        self.up = Linear(64, 128, axes=("vision_embed", "vision_mlp"), **wide)
        self.down = Linear(128, 64, axes=("vision_mlp", "vision_embed"), **wide)

    def __call__(self, x):
        return x + self.down(jax.nn.gelu(self.up(x)))


class Tower(nnx.Module):
    def __init__(self, rngs):
        self.patches = Linear(24, 64, axes=(None, "vision_embed"), compute=Compute(), rngs=rngs)
        self.layers = Stack(Mlp, 2, compute=Compute(), rngs=rngs)

    def embed(self, x):
        return self.layers(self.patches(x))


def test_rows_stay_where_they_are_and_weights_are_gathered():
    """Also where the first weight's output features are split, and XLA would split all activations like them."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    tower = Functional(Tower)
    places = {"patches/kernel": jax.P(None, "fsdp"), "layers/layers/up/kernel": jax.P(None, "fsdp"),
              "layers/layers/down/kernel": jax.P(None, None, "fsdp")}  # fmt: skip
    parameters = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jax.NamedSharding(mesh, places.get(path, jax.P())))
        for path, leaf in tower.parameters.items()
    }
    inputs = jax.ShapeDtypeStruct((8, 16, 24), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P("fsdp")))

    def run(parameters, inputs):
        return embed_groups(functools.partial(tower.embed, parameters), inputs, mesh, ("fsdp",))

    program = jax.jit(run).lower(parameters, inputs).compile().as_text()
    assert "all-gather" in program
    assert not [name for name in ("all-reduce", "reduce-scatter", "all-to-all") if name in program]


def test_attention_over_a_mesh_needs_no_communication():
    """Rows split over one mesh axis and heads over another: each device computes its own, backwards too."""
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    place = jax.NamedSharding(mesh, jax.P("data", None, "tensor"))
    q, k, v = (jax.ShapeDtypeStruct((8, 5, heads, 4), jnp.float32, sharding=place) for heads in (4, 2, 2))
    mask = jax.ShapeDtypeStruct((8, 5), bool, sharding=jax.NamedSharding(mesh, jax.P("data")))

    def run(q, k, v, mask, cotangent):
        mixed, pull = jax.vjp(lambda *qkv: attention(*qkv, causal=True, key_mask=mask), q, k, v)
        return mixed, pull(cotangent)

    program = jax.jit(run, out_shardings=place).lower(q, k, v, mask, q).compile().as_text()
    collectives = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    assert not [name for name in collectives if name in program]
