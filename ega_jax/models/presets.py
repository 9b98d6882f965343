"""Models by name, and how one is made or read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flax import nnx

from ega_jax.errors import BadInputError
from ega_jax.models.anyres import AnyresConfig
from ega_jax.models.layers import DEFAULT_COMPUTE, Compute
from ega_jax.models.llava_onevision import LlavaOnevision
from ega_jax.models.llava_onevision_config import LlavaOnevisionConfig
from ega_jax.models.lora import LoraConfig, add_lora
from ega_jax.models.qwen2_config import Qwen2Config
from ega_jax.models.siglip import SiglipConfig
from ega_jax.models.weights import load_weights, save_weights


def build(
    preset_or_config: str | LlavaOnevisionConfig,
    *,
    rngs: nnx.Rngs,
    compute: Compute = DEFAULT_COMPUTE,
    lora: LoraConfig | None = None,
) -> LlavaOnevision:
    """A model with random weights.

    Args:
      preset_or_config: a key of `PRESETS`, or a config.
      rngs: their source. Under `flax.nnx.eval_shape` nothing is drawn and the model holds shapes alone.
      compute: how its arithmetic is carried out.
      lora: low-rank adapters to add.

    Raises:
      BadInputError: an unknown preset, or adapters for nothing.
    """
    model = LlavaOnevision(config_of(preset_or_config), compute=compute, rngs=rngs)
    if lora is not None:
        add_lora(model, lora, rngs=rngs)
    return model


def load(model_dir: str | Path, *, compute: Compute = DEFAULT_COMPUTE) -> LlavaOnevision:
    """The model of a directory: `config.json`, `preprocessor_config.json` if there is one, `*.safetensors`.

    Raises:
      BadInputError: what is missing or does not fit, by name.
    """
    model_dir = Path(model_dir)
    config = load_config(model_dir)
    model = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0), compute=compute))
    load_weights(model, model_dir)
    return model


def load_config(model_dir: str | Path) -> LlavaOnevisionConfig:
    """The config of a model directory.

    Raises:
      BadInputError: no or broken `config.json`, or a setting that is not carried out.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "config.json").is_file():
        raise BadInputError(f"{model_dir}: no config.json there; give the directory of a model")
    preprocessor = model_dir / "preprocessor_config.json"
    return LlavaOnevisionConfig.from_hf(
        _read_json(model_dir / "config.json"), _read_json(preprocessor) if preprocessor.is_file() else None
    )


def save(model: LlavaOnevision, model_dir: str | Path, *, passthrough: str | Path | None = None) -> None:
    """Writes a model directory that `load` and transformers read: config, preprocessor config, float32 weights.

    Args:
      model: with its weights in this process.
      model_dir: made if absent; must hold no weights yet.
      passthrough: a model directory from which published tensors that the model itself does not hold are copied.

    Raises:
      BadInputError: there are weights already, or none at `passthrough`.
    """
    model_dir = Path(model_dir)
    save_weights(model, model_dir, passthrough=passthrough)
    for name, content in (
        ("config.json", model.config.to_hf()),
        ("preprocessor_config.json", model.config.preprocessor_to_hf()),
    ):
        (model_dir / name).write_text(json.dumps(content, indent=2) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise BadInputError(f"{path}: not valid JSON ({error})") from error


def config_of(preset_or_config: str | LlavaOnevisionConfig) -> LlavaOnevisionConfig:
    """The config of a preset; a config is returned as it is."""
    if isinstance(preset_or_config, LlavaOnevisionConfig):
        return preset_or_config
    if preset_or_config not in PRESETS:
        raise BadInputError(f"unknown model preset {preset_or_config!r}; choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[preset_or_config]


def _squares(tile: int, most: int) -> tuple[tuple[int, int], ...]:
    """Resolutions of 1x1 to most x most tiles."""
    return tuple((tile * rows, tile * columns) for rows in range(1, most + 1) for columns in range(1, most + 1))


_SO400M = SiglipConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=26,
    num_attention_heads=16,
    image_size=384,
    patch_size=14,
)
_ANYRES_384 = AnyresConfig(tile_size=384, grid_size=27, pinpoints=_squares(384, 6))

PRESETS: dict[str, LlavaOnevisionConfig] = {
    # llava-hf/llava-onevision-qwen2-7b-ov-hf
    "llava_onevision_7b": LlavaOnevisionConfig(
        vision=_SO400M,
        text=Qwen2Config(
            vocab_size=152128,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
        ),
        image=_ANYRES_384,
        image_token_id=151646,
        video_token_id=151647,
    ),
    # llava-hf/llava-onevision-qwen2-0.5b-ov-hf
    "llava_onevision_0.5b": LlavaOnevisionConfig(
        vision=_SO400M,
        text=Qwen2Config(
            vocab_size=152000,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        image=_ANYRES_384,
        image_token_id=151646,
        video_token_id=151647,
    ),
    # The same code with small numbers: trains from scratch on two CPU cores. The vocabulary is the
    # tokenizer's
    # (`LlavaOnevisionConfig.with_vocabulary`); this one fits a byte-level tokenizer of up to 512 entries.
    "llava_onevision_tiny": LlavaOnevisionConfig(
        vision=SiglipConfig(
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        text=Qwen2Config(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_theta=1e4,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
        ),
        image=AnyresConfig(tile_size=32, grid_size=4, pinpoints=_squares(32, 3)),
        image_token_id=510,
        video_token_id=511,
    ),
}
