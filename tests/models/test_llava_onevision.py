"""The whole model against transformers, case by case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ega_jax.models
from ega_jax.models import Compute
from ega_jax.models.anyres import video_token_sources
from ega_jax.models.layers import rotary_angles

from . import golden


def graphdef_with(compute):
    """The golden model's structure under another way of computing."""
    return nnx.split(nnx.eval_shape(lambda: ega_jax.models.build(golden.config(), rngs=nnx.Rngs(0), compute=compute)))[
        0
    ]


CASES = ["text_rpad", "text_lpad", "single_image", "anyres", "mixed", "mixed_lpad", "multi_image"]


@pytest.fixture(scope="module")
def model():
    return golden.model()


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(model, name):
    tensors, inputs = golden.case(name), golden.inputs(golden.case(name))
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state, inputs):
        model = nnx.merge(graphdef, state)
        outputs = {
            "final_hidden": model.hidden_states(inputs),
            "inputs_embeds": model.merge(inputs),
            "embedding": model.embed(inputs),
        }
        if "tiles" in inputs:
            outputs["vision_features"] = model.vision_tower(model.normalize(inputs["tiles"]))
            outputs["projected_features"] = model.encode_tiles(inputs["tiles"])
        return outputs

    outputs = run(state, inputs)
    for key in ("inputs_embeds", "final_hidden"):
        got, expected = (golden.where_real(x, tensors) for x in (outputs[key], tensors[f"out.{key}"]))
        np.testing.assert_allclose(got, expected, **golden.FEATURES, err_msg=key)
    for key in ("vision_features", "projected_features"):
        if key in outputs:
            np.testing.assert_allclose(outputs[key], tensors[f"out.{key}"], **golden.FEATURES, err_msg=key)
    np.testing.assert_allclose(outputs["embedding"], tensors["out.embedding"], **golden.EMBEDDINGS)


def test_video_equals_transformers(model):
    tensors = golden.case("video")
    ids = tensors["in.input_ids"].astype(np.int32)
    frames = tensors["in.pixel_values_videos"][0].transpose(0, 2, 3, 1)
    sources = video_token_sources(len(frames), model.config.image)
    placeholders = (model.config.video_token_id,)
    index, weight = golden.scatter_rows(ids, [(sources.index, sources.weight)], placeholders)
    inputs = {
        "input_ids": ids,
        "attention_mask": tensors["in.attention_mask"].astype(bool),
        "tiles": frames,
        "visual_index": index,
        "visual_weight": weight,
    }
    merged, hidden, embedding = jax.jit(lambda x: (model.merge(x), model.hidden_states(x), model.embed(x)))(inputs)
    packed = merged[ids == model.config.video_token_id]
    np.testing.assert_allclose(packed, tensors["out.packed_video_features"][0], **golden.FEATURES)
    np.testing.assert_allclose(hidden, tensors["out.final_hidden"], **golden.FEATURES)
    np.testing.assert_allclose(embedding, tensors["out.embedding"], **golden.EMBEDDINGS)


def info_nce(queries, targets, temperature=0.02):
    log_probabilities = jax.nn.log_softmax(queries @ targets.T / temperature, axis=-1)
    return -jnp.diagonal(log_probabilities).mean()


def test_gradients_equal_torch(model):
    tensors = golden.case("grads_infonce")
    queries, targets = golden.inputs(tensors, "q.in."), golden.inputs(tensors, "t.in.")
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


def groups(inputs, count):
    """The same batch `count` times, as different groups: the rows' tokens are turned over in each, tiles too."""
    text = {k: np.stack([np.roll(v, g, axis=0) for g in range(count)]) for k, v in inputs.items() if k != "tiles"}
    return text | {"tiles": np.stack([inputs["tiles"] * (1 - 0.1 * g) for g in range(count)])}


def test_groups_under_vmap_equal_one_by_one(model):
    inputs = groups(golden.inputs(golden.case("mixed")), 3)
    graphdef, state = nnx.split(model)
    embed = jax.jit(lambda state, inputs: nnx.merge(graphdef, state).embed(inputs))
    expected = np.stack([embed(state, jax.tree.map(lambda x, g=g: x[g], inputs)) for g in range(3)])
    got = jax.jit(lambda state, inputs: jax.vmap(nnx.merge(graphdef, state).embed)(inputs))(state, inputs)
    np.testing.assert_allclose(got, expected, **golden.EMBEDDINGS)
    assert np.abs(expected[0] - expected[1]).max() > 0.01


def test_gradients_through_a_scan_of_checkpointed_chunks_equal_those_of_the_whole(model):
    inputs = groups(golden.inputs(golden.case("mixed")), 2)
    graphdef, state = nnx.split(model)

    def loss_of(embed_chunks):
        def loss(state):
            embeddings = embed_chunks(nnx.merge(graphdef, state)).reshape(8, -1)
            return info_nce(embeddings[::2], embeddings[1::2])

        return jax.jit(jax.value_and_grad(loss))

    def scanned(model):
        step = jax.checkpoint(lambda carry, chunk: (carry, model.embed(chunk)))
        return jax.lax.scan(step, None, inputs)[1]

    def whole(model):
        return jax.vmap(model.embed)(inputs)

    loss, gradients = loss_of(scanned)(state)
    expected_loss, expected = loss_of(whole)(state)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    golden.assert_gradients_close(golden.published(graphdef, gradients), golden.published(graphdef, expected))


def test_batch_of_texts_does_not_run_the_tower(model):
    tensors = golden.case("text_rpad")
    inputs = golden.inputs(tensors)
    tables = {"visual_index": np.zeros((3, 50, 1), np.int32), "visual_weight": np.zeros((3, 50, 1), np.float32)}
    empty = inputs | tables | {"tiles": np.zeros((0, 48, 48, 3), np.uint8)}
    embeddings = jax.jit(model.embed)(empty)
    np.testing.assert_allclose(embeddings, tensors["out.embedding"], **golden.EMBEDDINGS)
    flops = {
        slots: jax.jit(model.embed)
        .lower(empty | {"tiles": np.zeros((slots, 48, 48, 3), np.uint8)})
        .compile()
        .cost_analysis()["flops"]
        for slots in (0, 8)
    }
    assert flops[8] > 1.2 * flops[0]


def test_raw_tiles_equal_normalised_ones(model):
    inputs = golden.inputs(golden.case("mixed"))
    raw = np.rint((inputs["tiles"] * 0.5 + 0.5) * 255).astype(np.uint8)
    embeddings = jax.jit(model.embed)(inputs | {"tiles": raw})
    np.testing.assert_allclose(embeddings, golden.case("mixed")["out.embedding"], **golden.EMBEDDINGS)


def test_spare_tiles_and_rows_change_nothing(model):
    inputs = golden.inputs(golden.case("mixed"))
    padded = {k: np.pad(v, [(0, 3)] + [(0, 0)] * (v.ndim - 1)) for k, v in inputs.items()}
    padded |= {"visual_index": np.pad(padded["visual_index"], [(0, 0), (0, 0), (0, 3)])}
    padded |= {"visual_weight": np.pad(padded["visual_weight"], [(0, 0), (0, 0), (0, 3)])}
    embeddings = jax.jit(model.embed)(padded)
    np.testing.assert_allclose(embeddings[:4], golden.case("mixed")["out.embedding"], **golden.EMBEDDINGS)
    assert np.isfinite(embeddings).all()


def test_padding_rows_have_finite_gradients(model):
    inputs = {"input_ids": np.zeros((2, 5), np.int32), "attention_mask": np.zeros((2, 5), bool)}
    graphdef, state = nnx.split(model)
    gradients = jax.jit(jax.grad(lambda state: nnx.merge(graphdef, state).embed(inputs).sum()))(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_given_positions_are_used(model):
    inputs = golden.inputs(golden.case("text_rpad"))
    positions = golden.case("text_rpad")["in.position_ids"].astype(np.int32)
    expected, embed = golden.case("text_rpad")["out.embedding"], jax.jit(model.embed)
    np.testing.assert_allclose(embed(inputs | {"positions": positions}), expected, **golden.EMBEDDINGS)
    stretched = embed(inputs | {"positions": 3 * positions})
    assert np.abs(stretched - expected).max() > 1e-3


def test_layers_one_by_one_equal_transformers(model):
    tensors = golden.case("single_image")
    inputs = golden.inputs(tensors)
    decoder, text = model.language_model.decoder, model.config.text
    positions = tensors["in.position_ids"].astype(np.int32)
    angles = rotary_angles(positions, text.head_dim, text.rope_theta)
    hidden, run = jax.jit(model.merge)(inputs), jax.jit(lambda layer, *args: layer(*args))
    for layer in range(2):
        module = jax.tree.map(lambda leaf, layer=layer: leaf[layer], decoder.layers)
        hidden = run(module, hidden, inputs["attention_mask"], angles)
        got, expected = (golden.where_real(x, tensors) for x in (hidden, tensors[f"out.lm_after_layer_{layer}"]))
        np.testing.assert_allclose(got, expected, **golden.FEATURES)


def test_bfloat16_stays_close_and_keeps_float32_where_it_must(model):
    inputs = golden.inputs(golden.case("mixed"))
    state = nnx.split(model)[1]
    graphdef = graphdef_with(Compute(dtype="bfloat16"))
    low = nnx.merge(graphdef, state)
    assert jax.eval_shape(low.merge, inputs).dtype == jnp.bfloat16
    assert jax.eval_shape(low.encode_tiles, inputs["tiles"]).dtype == jnp.bfloat16
    embeddings = jax.jit(low.embed)(inputs)
    assert embeddings.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=-1), 1, atol=1e-6)
    cosines = np.asarray((embeddings * golden.case("mixed")["out.embedding"]).sum(-1))
    assert (cosines > 0.999).all()
    assert (cosines < 1 - 1e-7).all()  # it does run in bfloat16
    gradients = jax.eval_shape(jax.grad(lambda state: nnx.merge(graphdef, state).embed(inputs).sum()), state)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


def test_gradient_of_a_shared_newline_adds_up_in_float32(model):
    graphdef, state = graphdef_with(Compute(dtype="bfloat16")), nnx.state(model)
    tokens = 5000  # bfloat16 stops counting at 256
    inputs = {
        "input_ids": np.full((1, tokens), model.config.image_token_id, np.int32),
        "tiles": np.zeros((1, 48, 48, 3), np.uint8),
        "visual_index": np.zeros((1, tokens, 1), np.int32),
        "visual_weight": np.ones((1, tokens, 1), np.float32),
    }
    loss = jax.jit(jax.grad(lambda state: nnx.merge(graphdef, state).merge(inputs).astype(jnp.float32).sum()))
    gradient = loss(state)
    np.testing.assert_allclose(gradient["image_newline"][...], tokens)
