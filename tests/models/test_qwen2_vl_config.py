"""Qwen2-VL's configuration: what is published is read whole, in every layout, and written so that it is read again."""

import copy
import dataclasses
import json

import jax
import pytest
import transformers
from flax import nnx

from ega_jax.errors import BadInputError
from ega_jax.models import PRESETS, build, load_config
from ega_jax.models.qwen2_vl_config import Qwen2VlConfig
from ega_jax.models.qwen2_vl_presets import QWEN2_VL_PRESETS

PUBLISHED_2B = {  # Qwen/Qwen2-VL-2B-Instruct, config.json
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "initializer_range": 0.02,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2_vl",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 1536,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
PREPROCESSOR = {  # the same, preprocessor_config.json
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
}
DECODER = [
    *("hidden_act", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads"),
    *("num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling", "vocab_size"),
    *("use_sliding_window", "tie_word_embeddings"),
]


def changed(path, value):
    """The published config with one field set."""
    hf = copy.deepcopy(PUBLISHED_2B)
    *parents, name = path.split(".")
    place = hf
    for parent in parents:
        place = place[parent]
    place[name] = value
    return hf


def nested(hf):
    """As transformers 4.52 to 4.57 save it: the decoder's fields in a part of their own, M-RoPE under another name."""
    text = {name: hf[name] for name in DECODER}
    text |= {"model_type": "qwen2_vl_text", "rope_scaling": {**text["rope_scaling"], "rope_type": "default"}}
    rest = {name: value for name, value in hf.items() if name not in DECODER}
    return {**rest, "text_config": text, "vision_config": {**hf["vision_config"], "model_type": "qwen2_vl"}}


def test_published_2b_is_the_preset():
    assert Qwen2VlConfig.from_hf(PUBLISHED_2B, PREPROCESSOR) == PRESETS["qwen2_vl_2b"]
    assert Qwen2VlConfig.from_hf(PUBLISHED_2B) == PRESETS["qwen2_vl_2b"]
    assert Qwen2VlConfig.from_hf(nested(PUBLISHED_2B)) == PRESETS["qwen2_vl_2b"]


@pytest.mark.parametrize("preset", QWEN2_VL_PRESETS)
def test_round_trip_also_through_transformers(preset, tmp_path):
    config = PRESETS[preset]
    assert Qwen2VlConfig.from_hf(config.to_hf(), config.preprocessor_to_hf()) == config
    transformers.Qwen2VLConfig(**config.to_hf()).save_pretrained(tmp_path)
    areas = {k: v for k, v in config.preprocessor_to_hf().items() if not k.endswith(("_type", "_class"))}
    transformers.Qwen2VLImageProcessorPil(**areas).save_pretrained(tmp_path)
    assert "text_config" in json.loads((tmp_path / "config.json").read_text())
    assert load_config(tmp_path) == config


def test_every_field_is_read():
    """Each number of a config with unusual ones everywhere survives, so none is a constant in disguise."""
    config = PRESETS["qwen2_vl_tiny"]
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, num_hidden_layers=5, intermediate_size=192),
        text=dataclasses.replace(
            config.text, rope_theta=777.0, rms_norm_eps=2e-5, max_position_embeddings=321, mrope_section=(3, 5, 8)
        ),
        image=dataclasses.replace(
            config.image, merge_size=3, min_pixels=999, max_pixels=7777, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
        ),
        image_token_id=17,
        video_token_id=18,
        vision_start_token_id=19,
        vision_end_token_id=20,
    )
    assert Qwen2VlConfig.from_hf(config.to_hf(), config.preprocessor_to_hf()) == config


def test_fields_that_are_left_out_are_those_of_transformers():
    theirs = transformers.Qwen2VLConfig().to_dict()
    theirs["vision_config"]["hidden_size"] = 8192  # its default does not fit the decoder's
    short = {"model_type": "qwen2_vl", "vision_config": {"hidden_size": 8192}}
    assert Qwen2VlConfig.from_hf(short) == Qwen2VlConfig.from_hf(json.loads(json.dumps(theirs, default=str)))
    size = transformers.Qwen2VLImageProcessorPil().size
    image = Qwen2VlConfig.from_hf(PUBLISHED_2B, {"patch_size": 14}).image
    assert (image.min_pixels, image.max_pixels) == (size["shortest_edge"], size["longest_edge"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model_type", "qwen2_5_vl"),
        ("use_sliding_window", True),
        ("hidden_act", "gelu"),
        ("rope_scaling", {"type": "yarn", "factor": 2.0}),
        ("rope_scaling", {"type": "mrope", "mrope_section": [16, 24, 16]}),
        ("vision_config.hidden_act", "silu"),
        ("vision_config.temporal_patch_size", 1),
        ("vision_config.in_channels", 1),
        ("vision_config.model_type", "qwen2_5_vl"),
        ("vision_config.rope_parameters", {"rope_type": "axial", "rope_theta": 100.0}),
        ("vision_config.hidden_size", 3584),
        ("vision_config.num_heads", 17),
        ("vision_config.mlp_ratio", 2.5),
    ],
)
def test_settings_that_are_not_carried_out_are_refused_by_name(path, value):
    name = {"num_heads": "num_attention_heads", "mlp_ratio": "intermediate_size"}.get(path.rpartition(".")[2])
    with pytest.raises(BadInputError, match=name or ("rotary scaling|mrope_section" if "scal" in path else path)):
        Qwen2VlConfig.from_hf(changed(path, value))


@pytest.mark.parametrize(
    ("name", "value"), [("do_resize", False), ("resample", 2), ("patch_size", 16), ("merge_size", 1)]
)
def test_preprocessor_settings_that_are_not_carried_out_are_refused(name, value):
    with pytest.raises(BadInputError, match=f"preprocessor_config.json: {name}"):
        Qwen2VlConfig.from_hf(PUBLISHED_2B, {**PREPROCESSOR, name: value})


def test_resolution_is_a_number_of_pixels():
    config = PRESETS["qwen2_vl_7b"]
    no_tiles = {"max_tiles": None, "base_only": False}
    assert config.with_resolution(**no_tiles, max_pixels=None) == config
    assert config.with_resolution(**no_tiles, max_pixels=2**30) == config
    small = config.with_resolution(**no_tiles, max_pixels=1000).image
    assert (small.min_pixels, small.max_pixels) == (1000, 1000)
    with pytest.raises(BadInputError, match=r"model\.max_pixels=783 is less than the 784"):
        config.with_resolution(**no_tiles, max_pixels=783)
    with pytest.raises(BadInputError, match="tiles"):
        config.with_resolution(max_tiles=2, base_only=False, max_pixels=None)
    with pytest.raises(BadInputError, match=r"model\.max_pixels: LLaVA-OneVision"):
        PRESETS["llava_onevision_tiny"].with_resolution(**no_tiles, max_pixels=1000)


@pytest.mark.parametrize(("preset", "total"), [("qwen2_vl_7b", 8_291_375_616), ("qwen2_vl_2b", 2_208_985_600)])
def test_there_are_as_many_parameters_as_published(preset, total):
    config = PRESETS[preset]
    model = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
    held = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    head = 0 if config.text.tie_word_embeddings else config.text.vocab_size * config.text.hidden_size
    assert held + head == total


def test_patches_must_fit_the_tower():
    config = PRESETS["qwen2_vl_tiny"]
    with pytest.raises(BadInputError, match="do not fit"):
        dataclasses.replace(config, image=PRESETS["qwen2_vl_7b"].image)
    with pytest.raises(BadInputError, match="mrope_section"):
        dataclasses.replace(config, text=dataclasses.replace(config.text, mrope_section=None))
