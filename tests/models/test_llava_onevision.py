"""The whole model against transformers, case by case."""

import jax
import numpy as np
import pytest
from flax import nnx

from . import golden

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
