"""Adapters: nothing at first, trained alone, and gone after merging."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ega_jax.models
from ega_jax.errors import BadInputError
from ega_jax.models import LoraConfig, add_lora, merge_lora

from . import golden

ATTENTION = LoraConfig(rank=3, alpha=6.0, paths=(r"language_model/.*self_attn/[qv]_proj", "projector/linear_1"))


def fresh(lora=ATTENTION):
    """The golden model with adapters of its own."""
    model = nnx.clone(golden.model())
    add_lora(model, lora, rngs=nnx.Rngs(1))
    return model


def trained(model):
    """Fills the Bs as training would."""
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.LoRAParam)):
        if path[-1] == "b":
            variable[...] = 0.3 * jax.random.normal(jax.random.key(len(path)), variable.shape)
    return model


@pytest.fixture(scope="module")
def inputs():
    return golden.inputs(golden.case("mixed"))


def test_new_adapters_change_nothing(inputs):
    embeddings = jax.jit(fresh().embed)(inputs)
    np.testing.assert_allclose(embeddings, golden.case("mixed")["out.embedding"], **golden.EMBEDDINGS)


def test_adapters_sit_where_the_path_says_with_axes_of_their_own():
    model = fresh()
    state = nnx.state(model, nnx.LoRAParam)
    shapes = {"/".join(path): variable.shape for path, variable in nnx.to_flat_state(state)}
    assert shapes == {
        "language_model/decoder/layers/self_attn/q_proj/lora/a": (3, 64, 3),
        "language_model/decoder/layers/self_attn/q_proj/lora/b": (3, 3, 64),
        "language_model/decoder/layers/self_attn/v_proj/lora/a": (3, 64, 3),
        "language_model/decoder/layers/self_attn/v_proj/lora/b": (3, 3, 32),
        "projector/linear_1/lora/a": (32, 3),
        "projector/linear_1/lora/b": (3, 64),
    }
    axes = dict(nnx.to_flat_state(ega_jax.models.logical_axes(state)))
    assert axes["language_model", "decoder", "layers", "self_attn", "q_proj", "lora", "a"] == ("layers", "embed", None)
    assert axes["projector", "linear_1", "lora", "b"] == (None, "mlp")
    a = model.language_model.decoder.layers.self_attn.q_proj.lora.a[...]
    assert not np.allclose(a[0], a[1])


def test_gradients_reach_the_adapters_alone_through_scan_and_remat(inputs):
    graphdef, adapters, rest = nnx.split(trained(fresh()), nnx.LoRAParam, ...)

    @jax.jit
    def gradients(adapters):
        return jax.grad(lambda adapters: nnx.merge(graphdef, adapters, rest).embed(inputs)[:, :5].sum())(adapters)

    got = gradients(adapters)
    assert len(jax.tree.leaves(got)) == 6
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(got))


def test_merged_model_is_the_same_function_and_exports(inputs, tmp_path):
    model = trained(fresh())
    expected = jax.jit(model.embed)(inputs)
    assert np.abs(expected - golden.case("mixed")["out.embedding"]).max() > 0.01
    with pytest.raises(ValueError, match="merge_lora"):
        ega_jax.models.save_weights(model, tmp_path)
    merge_lora(model)
    assert not jax.tree.leaves(nnx.state(model, nnx.LoRAParam))
    ega_jax.models.save(model, tmp_path)
    exported = ega_jax.models.load(tmp_path)
    np.testing.assert_allclose(jax.jit(exported.embed)(inputs), expected, **golden.EMBEDDINGS)


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 6.0 / 3), (True, 6.0 / 3**0.5)])
def test_product_is_scaled_by_alpha_over_rank_or_its_root(stabilized, scale):
    lora = trained(fresh(dataclasses.replace(ATTENTION, rank_stabilized=stabilized))).projector.linear_1.lora
    expected = scale * np.asarray(lora.a[...], np.float64) @ np.asarray(lora.b[...], np.float64)
    np.testing.assert_allclose(lora.product(), expected, atol=1e-6)


def test_adapters_do_not_hinder_reading_published_weights():
    model = trained(fresh())
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.LoRAParam))
    model.image_newline[...] = jnp.zeros(64)
    ega_jax.models.load_weights(model, golden.LLAVA / "model")
    np.testing.assert_array_equal(model.image_newline[...], golden.model().image_newline[...])
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model, nnx.LoRAParam), before)


def test_built_abstractly():
    make = ega_jax.models.build
    model = nnx.eval_shape(lambda: make("llava_onevision_7b", rngs=nnx.Rngs(0), lora=LoraConfig(rank=16)))
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.LoRAParam))]
    hidden, keys, wide = 3584, 512, 18944
    per_layer = 2 * (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + wide)
    assert sum(sizes) == 28 * 16 * per_layer


def test_faults_are_named():
    with pytest.raises(BadInputError, match="'nothing' matches none of language_model/"):
        fresh(LoraConfig(paths=("projector/", "nothing")))
    with pytest.raises(BadInputError, match="not a regular expression"):
        fresh(LoraConfig(paths=("(",)))
    with pytest.raises(BadInputError, match="paths are empty"):
        fresh(LoraConfig(paths=()))
    with pytest.raises(BadInputError, match="rank -1"):
        LoraConfig(rank=-1)
    with pytest.raises(BadInputError, match="alpha must be positive"):
        LoraConfig(alpha=0.0)


def test_rank_zero_is_no_adapters():
    assert not jax.tree.leaves(nnx.state(fresh(LoraConfig(rank=0)), nnx.LoRAParam))


def test_adapters_are_drawn_alike_in_any_order_of_the_expressions():
    one, other = fresh(), fresh(dataclasses.replace(ATTENTION, paths=ATTENTION.paths[::-1]))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(one, nnx.LoRAParam), nnx.state(other, nnx.LoRAParam))
