"""The whole model against the QQMM-embed repository, case by case."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ega_jax.models
from ega_jax.data.buckets import Bucket
from ega_jax.data.processor import Processor
from ega_jax.data.records import Side
from ega_jax.data.tokenizer import load_tokenizer
from ega_jax.models import Compute
from ega_jax.models.patch_layout import block_index
from ega_jax.models.qqmm_images import QqmmImageConfig

from . import golden, qqmm_golden
from .test_llava_onevision import info_nce

CASES = [
    "text_rpad",
    "text_lpad",
    "single_image",
    "two_grids",
    "two_grids_no_share_pe",
    "mixed",
    "mixed_lpad",
    "multi_image",
]


@pytest.fixture(scope="module")
def model():
    return qqmm_golden.model()


def with_config(model, **changes):
    """The same weights under a changed config."""
    changed = nnx.clone(model)
    changed.config = dataclasses.replace(model.config, **changes)
    return changed


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(model, name):
    tensors = qqmm_golden.case(name)
    inputs = qqmm_golden.inputs(tensors)
    graphdef, state = nnx.split(with_config(model, share_image_positions=name != "two_grids_no_share_pe"))

    @jax.jit
    def run(state, inputs):
        model = nnx.merge(graphdef, state)
        outputs = {
            "final_hidden": model.hidden_states(inputs),
            "inputs_embeds": model.merge(inputs),
            "embedding": model.embed(inputs),
            "position_ids": model.positions(inputs),
        }
        if "patches" in inputs:
            outputs["vision_features"] = model.encode_patches(inputs)
            outputs["table"] = model.feature_table(inputs)
        return outputs

    outputs = run(state, inputs)
    for key in ("inputs_embeds", "final_hidden"):
        got, expected = (golden.where_real(x, tensors) for x in (outputs[key], tensors[f"out.{key}"]))
        np.testing.assert_allclose(got, expected, **golden.FEATURES, err_msg=key)
    got, expected = (golden.where_real(x, tensors) for x in (outputs["position_ids"], tensors["in.position_ids"]))
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(outputs["embedding"], tensors["out.embedding"], **golden.EMBEDDINGS)
    if "table" in outputs:
        assert_features_equal(outputs, tensors)


def assert_features_equal(outputs, tensors):
    """Of the tower and of the projection; the reference has the image row anew before each picture's blocks."""
    grids = [tuple(map(int, grid)) for grid in tensors["in.grid_sizes"]]
    features = qqmm_golden.row_by_row(outputs["vision_features"], grids)
    np.testing.assert_allclose(features, tensors["out.vision_features"], **golden.FEATURES)
    index = block_index(qqmm_golden.in_blocks(grids), lead=1, first=0)
    assert np.bincount(index)[0] == len(grids)
    np.testing.assert_allclose(outputs["table"][index], tensors["out.abstractor_features"], **golden.FEATURES)


def test_odd_grids_are_filled_up_with_zeros(model):
    tensors = qqmm_golden.case("odd_grids")
    inputs = qqmm_golden.pack(qqmm_golden.pixels(tensors), [tuple(map(int, g)) for g in tensors["in.grid_sizes"]])
    run = jax.jit(
        lambda inputs: {"vision_features": model.encode_patches(inputs), "table": model.feature_table(inputs)}
    )
    assert_features_equal(run(inputs), tensors)


def test_gradients_equal_torch(model):
    tensors = qqmm_golden.case("grads_infonce")
    queries, targets = qqmm_golden.inputs(tensors, "q.in."), qqmm_golden.inputs(tensors, "t.in.")
    graphdef, state = nnx.split(model)

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradients(state):
        model = nnx.merge(graphdef, state)
        return info_nce(model.embed(queries), model.embed(targets))

    loss, gradients = loss_and_gradients(state)
    np.testing.assert_allclose(loss, tensors["out.loss"][0], rtol=1e-5)
    expected = {k.removeprefix("grad."): v for k, v in tensors.items() if k.startswith("grad.")}
    golden.assert_gradients_close(golden.published(graphdef, gradients), expected)


@pytest.mark.parametrize("name", ["embedbot_text", "embedbot_image"])
def test_a_side_becomes_what_embedbot_makes_of_it(model, name):
    tensors = qqmm_golden.case(name)
    text = json.loads((qqmm_golden.QQMM / "cases.json").read_text())[name]["text"]
    pictures = (golden.image("rgb_wide_157x41").crop((0, 0, 41, 41)),) if name == "embedbot_image" else ()
    config = dataclasses.replace(model.config, image=QqmmImageConfig())
    tokenizer = load_tokenizer(qqmm_golden.QQMM / "tokenizer", add_image_token=True)
    processor = Processor(config, tokenizer, max_tokens=1024)
    side = Side(text, pictures)
    example, sizes = processor.prepare(side), processor.measure([side])
    np.testing.assert_array_equal(example.input_ids, tensors["in.input_ids"][0])
    assert (sizes.tokens[0], sizes.units[0]) == (len(example.input_ids), example.images.units)
    inputs = processor.collate([example], Bucket(640, 1024 * len(pictures)), 1)
    inputs = {key: value[0] for key, value in inputs.items()}
    if pictures:
        expected = qqmm_golden.pack(qqmm_golden.pixels(tensors), [(32, 32)])
        np.testing.assert_array_equal(inputs["patches"], expected["patches"])
        np.testing.assert_array_equal(inputs["patch_positions"], expected["patch_positions"])
    positions = jax.jit(model.positions)(inputs)[0]
    np.testing.assert_array_equal(positions[: len(example.input_ids)], tensors["in.position_ids"][0])
    np.testing.assert_allclose(jax.jit(model.embed)(inputs), tensors["out.embedding"], **golden.EMBEDDINGS)


def test_spare_slots_and_rows_change_nothing_and_texts_do_without_the_tower(model):
    inputs = qqmm_golden.inputs(qqmm_golden.case("mixed"))
    padded = {k: np.pad(v, [(0, 4)] + [(0, 0)] * (v.ndim - 1), constant_values=0) for k, v in inputs.items()}
    embeddings = jax.jit(model.embed)(padded)
    np.testing.assert_allclose(embeddings[:4], qqmm_golden.case("mixed")["out.embedding"], **golden.EMBEDDINGS)
    assert np.isfinite(embeddings).all()
    texts = qqmm_golden.inputs(qqmm_golden.case("text_rpad"))
    empty = {k: np.zeros((0, *v.shape[1:]), v.dtype) for k, v in inputs.items() if k.startswith("patch")}
    empty["visual_index"] = np.zeros((*texts["input_ids"].shape, 1), np.int32)
    embeddings = jax.jit(model.embed)(texts | empty)
    np.testing.assert_allclose(embeddings, qqmm_golden.case("text_rpad")["out.embedding"], **golden.EMBEDDINGS)


def test_attention_in_blocks_equals_the_dense_one(model):
    inputs = qqmm_golden.inputs(qqmm_golden.case("multi_image"))
    compute = Compute(attention="chunked")
    abstract = nnx.eval_shape(lambda: ega_jax.models.build(model.config, rngs=nnx.Rngs(0), compute=compute))
    chunked = nnx.merge(nnx.split(abstract)[0], nnx.state(model))
    embeddings = jax.jit(chunked.embed)(inputs)
    np.testing.assert_allclose(embeddings, qqmm_golden.case("multi_image")["out.embedding"], **golden.EMBEDDINGS)


def test_bfloat16_stays_close(model):
    inputs = qqmm_golden.inputs(qqmm_golden.case("mixed"))
    compute = Compute(dtype="bfloat16")
    abstract = nnx.eval_shape(lambda: ega_jax.models.build(model.config, rngs=nnx.Rngs(0), compute=compute))
    low = nnx.merge(nnx.split(abstract)[0], nnx.state(model))
    assert jax.eval_shape(low.merge, inputs).dtype == jnp.bfloat16
    assert jax.eval_shape(low.feature_table, inputs).dtype == jnp.float32
    embeddings = jax.jit(low.embed)(inputs)
    cosines = np.asarray((embeddings * qqmm_golden.case("mixed")["out.embedding"]).sum(-1))
    assert (cosines > 0.999).all()
    assert (cosines < 1 - 1e-7).all()  # it does run in bfloat16
