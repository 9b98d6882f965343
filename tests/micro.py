"""The smallest experiment: the same code as the 7B, compiled in seconds. Also a config file for the command line."""

import dataclasses

from ega_jax.models.anyres import AnyresConfig
from ega_jax.models.presets import PRESETS
from ega_jax.training.config import (
    CheckpointSettings,
    DataSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    TrainConfig,
    ValidationSettings,
)

_VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
_TINY = PRESETS["llava_onevision_tiny"]
PRESETS["micro"] = dataclasses.replace(
    _TINY,
    vision=dataclasses.replace(_TINY.vision, **_VISION, intermediate_size=24, image_size=16, patch_size=8),
    text=dataclasses.replace(_TINY.text, **_TEXT),
    image=AnyresConfig(tile_size=16, grid_size=2, pinpoints=((16, 16), (16, 32), (32, 16), (32, 32))),
)
_QWEN2_VL = PRESETS["qwen2_vl_tiny"]
PRESETS["micro_qwen2_vl"] = dataclasses.replace(
    _QWEN2_VL,
    vision=dataclasses.replace(_QWEN2_VL.vision, **_VISION, intermediate_size=32),
    text=dataclasses.replace(_QWEN2_VL.text, **_TEXT, mrope_section=(2, 1, 1)),
    image=dataclasses.replace(_QWEN2_VL.image, min_pixels=16 * 16, max_pixels=32 * 32),
)
_QQMM = PRESETS["qqmm_tiny"]
PRESETS["micro_qqmm"] = dataclasses.replace(
    _QQMM,
    vision=dataclasses.replace(_QQMM.vision, **_VISION, intermediate_size=32),
    text=dataclasses.replace(_QQMM.text, **_TEXT),
    image=dataclasses.replace(_QQMM.image, enlarge_to=None, longest_edge=48),
)

config = TrainConfig(
    steps=12,
    log_every=1,
    seed=5,
    model=ModelSettings(preset="micro", vocab_size=280, dtype="float32", remat="none"),
    data=DataSettings(
        directory="set by the test",
        batch_size=16,
        sub_batch_size=8,
        token_buckets=(64, 128),
        image_buckets=(0, 5),
    ),
    loss=LossSettings(temperature=0.1),
    optimizer=OptimizerSettings(learning_rate=3e-3, warmup=0.2),
    checkpoint=CheckpointSettings(every=4),
    validation=ValidationSettings(every=6, batch_size=16),
)
