"""QQMM's published config and weights: in, out, and refused by name."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import ega_jax.models
from ega_jax.errors import BadInputError
from ega_jax.models import PRESETS
from ega_jax.models.name_table import slots_of
from ega_jax.models.qqmm_config import QqmmConfig

from . import qqmm_golden

PUBLISHED = json.loads((qqmm_golden.QQMM / "model" / "config.json").read_text())


def changed(path, value, base=PUBLISHED):
    """The published config with one field changed, or left out where the value is ...."""
    *parents, name = path.split(".")
    copy = json.loads(json.dumps(base))
    part = copy
    for parent in parents:
        part = part[parent]
    if value is ...:
        del part[name]
    else:
        part[name] = value
    return copy


@pytest.mark.parametrize("name", ["qqmm_7b", "qqmm_tiny"])
def test_config_survives_the_published_form(name):
    config = dataclasses.replace(PRESETS[name], projection_layers=3, share_image_positions=False)
    hf, preprocessor = (json.loads(json.dumps(x)) for x in (config.to_hf(), config.preprocessor_to_hf()))
    assert QqmmConfig.from_hf(hf, preprocessor) == config


def test_what_is_read_is_not_assumed():
    config = QqmmConfig.from_hf(changed("image_token_id", 7))
    assert config.image_token_id == 7
    hf = changed("vision_abstractor_config.projection_type", "mlp5x_gelu")
    assert QqmmConfig.from_hf(hf).projection_layers == 5
    assert QqmmConfig.from_hf(PUBLISHED, {"vision_token_share_pe": False}).share_image_positions is False


def test_the_chat_models_limits_give_way_to_the_embedders():
    chat = {"max_single_num_patches": {"image": 2048}, "max_total_num_patches": 4096, "min_resized_num_patches": -1}
    assert QqmmConfig.from_hf(PUBLISHED, chat) == QqmmConfig.from_hf(PUBLISHED)
    others = chat | {"max_total_num_patches": 5000}
    image = QqmmConfig.from_hf(PUBLISHED, others).image
    assert (image.max_patches, image.max_row_patches, image.min_resized_patches) == (2048, 5000, -1)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("model_type", "qwen2_vl", "model_type"),
        ("image_token_id", ..., "image_token_id"),
        ("vision_output_key", ..., "vision_output_key"),
        ("vision_output_key", "last_hidden_state", "vision_output_key"),
        ("vision_abstractor_config.exist_cls_embedding", True, "exist_cls_embedding"),
        ("vision_abstractor_config.projection_type", ..., "projection_type"),
        ("vision_abstractor_config.projection_type", "linear", "projection_type"),
        ("vision_abstractor_config.projection_type", "mlp17x_gelu", "17 layers"),
        ("vision_model_config", ..., "vision_model_config"),
        ("vision_model_config.hidden_act", "gelu", "hidden_act"),
        ("vision_model_config.num_heads", 5, "num_attention_heads=5"),
        ("language_model_config", ..., "language_model_config"),
        ("language_model_config.hidden_act", "gelu", "language_model_config.hidden_act"),
    ],
)
def test_refuses_by_name(path, value, told):
    with pytest.raises(BadInputError, match=told):
        QqmmConfig.from_hf(changed(path, value))


def test_tiles_mean_nothing():
    with pytest.raises(BadInputError, match="max_tiles"):
        PRESETS["qqmm_7b"].with_resolution(max_tiles=3, base_only=False, max_pixels=None)
    config = PRESETS["qqmm_7b"]
    assert config.with_resolution(max_tiles=None, base_only=False, max_pixels=None) == config
    small = config.with_resolution(max_tiles=None, base_only=False, max_pixels=448 * 448)
    assert small.image == dataclasses.replace(config.image, max_patches=1024)
    assert config.with_resolution(max_tiles=None, base_only=False, max_pixels=2**30) == config


def test_the_7b_has_the_published_tensors():
    shapes = {k: tuple(v) for k, v in json.loads((qqmm_golden.QQMM / "param_shapes_7b.json").read_text()).items()}
    assert len(shapes) == 729
    head = shapes.pop("language_model.lm_head.weight")
    model = nnx.eval_shape(lambda: ega_jax.models.build("qqmm_7b", rngs=nnx.Rngs(0)))
    assert {slot.name: slot.shape for slot in slots_of(model)} == shapes
    held = sum(int(np.prod(shape)) for shape in shapes.values())
    assert held == sum(int(np.prod(leaf.shape)) for _, leaf in nnx.to_flat_state(nnx.state(model)))
    assert held + head[0] * head[1] == pytest.approx(8.28e9, rel=1e-3)


def test_weights_survive_the_published_form(tmp_path):
    model = qqmm_golden.model()
    ega_jax.models.save(model, tmp_path / "out", passthrough=qqmm_golden.QQMM / "model")
    expected, written = (
        load_file(directory / "model.safetensors") for directory in (qqmm_golden.QQMM / "model", tmp_path / "out")
    )
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
    assert ega_jax.models.load_config(tmp_path / "out") == model.config


@pytest.fixture
def checkpoint(tmp_path):
    shutil.copytree(qqmm_golden.QQMM / "model", tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t: t.pop("vision_abstractor.image_embedding"), "missing: vision_abstractor.image_embedding"),
        (lambda t: t.pop("vision_model.blocks.1.attn.qkv.bias"), "missing: vision_model.blocks.1.attn.qkv.bias"),
        (lambda t: t.update({"vision_model.extra": np.zeros(1, np.float32)}), "unknown: vision_model.extra"),
        (
            lambda t: t.update({"vision_model.patch_embed.weight": np.zeros((32, 3, 2, 14, 14), np.float32)}),
            r"vision_model.patch_embed.weight \(is \(32, 3, 2, 14, 14\), must be \(32, 3, 14, 14\)\)",
        ),
    ],
)
def test_names_what_does_not_fit(checkpoint, edit, told):
    tensors = load_file(checkpoint / "model.safetensors")
    edit(tensors)
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(BadInputError, match=told):
        ega_jax.models.load(checkpoint)


def test_a_projection_of_another_depth_is_read(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    extra = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    tensors |= {"vision_abstractor.projection.4.weight": extra, "vision_abstractor.projection.4.bias": extra[0].copy()}
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(BadInputError, match=r"unknown: vision_abstractor.projection.4.bias"):
        ega_jax.models.load(checkpoint)
    hf = changed("vision_abstractor_config.projection_type", "mlp3x_gelu")
    (checkpoint / "config.json").write_text(json.dumps(hf))
    model = ega_jax.models.load(checkpoint)
    np.testing.assert_array_equal(model.projector.linear_3.kernel[...], extra.T)
