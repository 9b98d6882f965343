"""Published configs in and out, and what is refused."""

import copy
import dataclasses
import json

import jax
import pytest
import transformers
from flax import nnx

import ega_jax.models
from ega_jax.errors import BadInputError
from ega_jax.models import PRESETS, LlavaOnevisionConfig
from ega_jax.models.llava_onevision_presets import LLAVA_ONEVISION_PRESETS
from ega_jax.models.presets import config_of

from . import golden

# The 7B's config.json as published: fields that equal the defaults of their transformers class are left out.
PUBLISHED_7B = {
    "architectures": ["LlavaOnevisionForConditionalGeneration"],
    "ignore_index": -100,
    "image_grid_pinpoints": [[384 * a, 384 * b] for a in range(1, 7) for b in range(1, 7)],
    "image_token_index": 151646,
    "model_type": "llava_onevision",
    "projector_hidden_act": "gelu",
    "text_config": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "model_type": "qwen2",
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "vocab_size": 152128,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_image_newline_parameter": True,
    "video_token_index": 151647,
    "vision_aspect_ratio": "anyres_max_9",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 26,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}


def changed(path, value):
    """The published config with one field set."""
    hf = copy.deepcopy(PUBLISHED_7B)
    *parents, name = path.split(".")
    place = hf
    for parent in parents:
        place = place[parent]
    place[name] = value
    return hf


def test_published_7b_is_the_preset():
    assert LlavaOnevisionConfig.from_hf(PUBLISHED_7B) == PRESETS["llava_onevision_7b"]


@pytest.mark.parametrize("preset", LLAVA_ONEVISION_PRESETS)
def test_round_trip_also_through_transformers(preset):
    config = PRESETS[preset]
    assert LlavaOnevisionConfig.from_hf(config.to_hf(), config.preprocessor_to_hf()) == config
    theirs = transformers.LlavaOnevisionConfig(**config.to_hf()).to_dict()
    assert LlavaOnevisionConfig.from_hf(json.loads(json.dumps(theirs, default=str))) == config


def test_every_field_is_read():
    """Each number of a config with unusual ones everywhere survives, so none is a constant in disguise."""
    config = PRESETS["llava_onevision_tiny"]
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, layer_norm_eps=3e-5, num_hidden_layers=5, intermediate_size=77),
        text=dataclasses.replace(
            config.text, rope_theta=777.0, rms_norm_eps=2e-5, max_position_embeddings=321, vocab_size=99
        ),
        image=dataclasses.replace(config.image, max_patches=5, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        image_token_id=17,
        video_token_id=18,
    )
    assert LlavaOnevisionConfig.from_hf(config.to_hf(), config.preprocessor_to_hf()) == config


def test_both_spellings_of_rope_theta():
    new = changed("text_config.rope_parameters", {"rope_type": "default", "rope_theta": 5.0})
    del new["text_config"]["rope_theta"]
    assert LlavaOnevisionConfig.from_hf(new).text.rope_theta == 5.0
    assert LlavaOnevisionConfig.from_hf(changed("text_config.rope_theta", 6.0)).text.rope_theta == 6.0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model_type", "llava_next"),
        ("text_config.model_type", "llama"),
        ("text_config.use_sliding_window", True),
        ("text_config.layer_types", ["full_attention", "sliding_attention"]),
        ("text_config.rope_parameters", {"rope_type": "yarn", "rope_theta": 1e6}),
        ("text_config.rope_scaling", {"type": "linear", "factor": 2.0}),
        ("text_config.hidden_act", "gelu"),
        ("text_config.head_dim", 64),
        ("vision_config.model_type", "clip_vision_model"),
        ("vision_config.hidden_act", "gelu"),
        ("vision_config.num_channels", 1),
        ("projector_hidden_act", "relu"),
        ("vision_feature_layer", -2),
        ("vision_feature_layer", [-1, -2]),
        ("vision_feature_select_strategy", "default"),
        ("vision_aspect_ratio", "anyres"),
        ("multimodal_projector_bias", False),
        ("use_image_newline_parameter", False),
        ("image_grid_pinpoints", [[384, 400]]),
    ],
)
def test_settings_that_are_not_carried_out_are_refused_by_name(path, value):
    name = "rotary scaling" if "rope" in path else path.rpartition(".")[2]
    with pytest.raises(BadInputError, match=name):
        LlavaOnevisionConfig.from_hf(changed(path, value))


def test_preprocessor_settings_that_are_not_carried_out_are_refused():
    size = {"height": 336, "width": 336}
    for name, value in (("do_normalize", False), ("resample", 2), ("rescale_factor", 1.0), ("size", size)):
        with pytest.raises(BadInputError, match=f"preprocessor_config.json: {name}"):
            LlavaOnevisionConfig.from_hf(PUBLISHED_7B, {name: value})


def test_model_directory_faults(tmp_path):
    with pytest.raises(BadInputError, match=r"no config\.json there"):
        ega_jax.models.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInputError, match="not valid JSON"):
        ega_jax.models.load(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("text_config.num_attention_heads", 27),
        ("text_config.num_key_value_heads", 5),
        ("vision_config.num_attention_heads", 7),
        ("vision_config.patch_size", 500),
    ],
)
def test_sizes_that_do_not_go_together_are_named(path, value):
    with pytest.raises(BadInputError, match=f"{path.partition('.')[2]}={value}"):
        LlavaOnevisionConfig.from_hf(changed(path, value))


def test_unknown_preset():
    with pytest.raises(BadInputError, match="llava_onevision_7b"):
        config_of("llava_7b")
    config = PRESETS["llava_onevision_tiny"]
    assert config_of(config) is config


def test_tiles_must_fit_the_tower():
    config = PRESETS["llava_onevision_tiny"]
    with pytest.raises(BadInputError, match="do not fit"):
        dataclasses.replace(config, image=golden.config().image)


def test_another_vocabulary():
    config = PRESETS["llava_onevision_tiny"].with_vocabulary(300, image_token_id=1, video_token_id=2)
    model = nnx.eval_shape(lambda: ega_jax.models.build(config, rngs=nnx.Rngs(0)))
    assert model.language_model.embed_tokens.embedding.shape == (300, 128)
    assert (config.image_token_id, config.video_token_id) == (1, 2)


def test_seeds_give_different_models_and_the_same_seed_the_same():
    config = PRESETS["llava_onevision_tiny"]

    @jax.jit
    def kernels(seed):
        model = ega_jax.models.build(config, rngs=nnx.Rngs(jax.random.key(seed)))
        return model.language_model.decoder.layers.mlp.up_proj.kernel[...], model.image_newline[...]

    first, again, other = kernels(0), kernels(0), kernels(1)
    for a, b, c in zip(first, again, other, strict=True):
        assert (a == b).all()
        assert (a != c).any()
