"""Models by name, and how one is made or read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flax import nnx

from ega_jax.errors import BadInputError
from ega_jax.models.backbone import BackboneConfig
from ega_jax.models.backbones import BACKBONES, backbone_of
from ega_jax.models.embedding_model import EmbeddingModel
from ega_jax.models.layers import DEFAULT_COMPUTE, Compute
from ega_jax.models.lora import add_lora
from ega_jax.models.lora_config import LoraConfig
from ega_jax.models.weights import load_weights, save_weights


def build(
    preset_or_config: str | BackboneConfig,
    *,
    rngs: nnx.Rngs,
    compute: Compute = DEFAULT_COMPUTE,
    lora: LoraConfig | None = None,
) -> EmbeddingModel:
    """A model with random weights.

    Args:
      preset_or_config: a key of `PRESETS`, or a config.
      rngs: their source. Under `flax.nnx.eval_shape` nothing is drawn and the model holds shapes alone.
      compute: how its arithmetic is carried out.
      lora: low-rank adapters to add.

    Raises:
      BadInputError: an unknown preset, or adapters for nothing.
    """
    config = config_of(preset_or_config)
    model = backbone_of(config.model_type).model(config, compute=compute, rngs=rngs)
    if lora is not None:
        add_lora(model, lora, rngs=rngs)
    return model


def load(model_dir: str | Path, *, compute: Compute = DEFAULT_COMPUTE) -> EmbeddingModel:
    """The model of a directory: `config.json`, `preprocessor_config.json` if there is one, `*.safetensors`.

    Raises:
      BadInputError: what is missing or does not fit, by name.
    """
    model_dir = Path(model_dir)
    config = load_config(model_dir)
    model = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0), compute=compute))
    load_weights(model, model_dir)
    return model


def load_config(model_dir: str | Path) -> BackboneConfig:
    """The config of a model directory.

    Raises:
      BadInputError: no or broken `config.json`, or a setting that is not carried out.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "config.json").is_file():
        raise BadInputError(f"{model_dir}: no config.json there; give the directory of a model")
    preprocessor = model_dir / "preprocessor_config.json"
    hf = _read_json(model_dir / "config.json")
    return backbone_of(hf.get("model_type")).config.from_hf(
        hf, _read_json(preprocessor) if preprocessor.is_file() else None
    )


def save(model: EmbeddingModel, model_dir: str | Path, *, passthrough: str | Path | None = None) -> None:
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


def config_of(preset_or_config: str | BackboneConfig) -> BackboneConfig:
    """The config of a preset; a config is returned as it is."""
    if not isinstance(preset_or_config, str):
        return preset_or_config
    if preset_or_config not in PRESETS:
        raise BadInputError(f"unknown model preset {preset_or_config!r}; choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[preset_or_config]


PRESETS: dict[str, Any] = {name: config for backbone in BACKBONES.values() for name, config in backbone.presets.items()}
"""Config by name."""
