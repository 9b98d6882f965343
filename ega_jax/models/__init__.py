"""Embedding models in Flax NNX.

    model = ega_jax.models.load("path/of/a/model")      # or build("llava_onevision_tiny", rngs=nnx.Rngs(0))
    vectors = model.embed(inputs)                       # (B, D) float32, unit rows

Modules load when first named: the host-side parts (`anyres`) do not import JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ega_jax.models.anyres import AnyresConfig as AnyresConfig
    from ega_jax.models.backbone import Backbone as Backbone
    from ega_jax.models.backbones import BACKBONES as BACKBONES
    from ega_jax.models.embedding_model import EmbeddingModel as EmbeddingModel
    from ega_jax.models.layers import Compute as Compute
    from ega_jax.models.layers import logical_axes as logical_axes
    from ega_jax.models.llava_onevision import LlavaOnevision as LlavaOnevision
    from ega_jax.models.llava_onevision_config import LlavaOnevisionConfig as LlavaOnevisionConfig
    from ega_jax.models.lora import add_lora as add_lora
    from ega_jax.models.lora import merge_lora as merge_lora
    from ega_jax.models.lora_config import LoraConfig as LoraConfig
    from ega_jax.models.presets import PRESETS as PRESETS
    from ega_jax.models.presets import build as build
    from ega_jax.models.presets import load as load
    from ega_jax.models.presets import load_config as load_config
    from ega_jax.models.presets import save as save
    from ega_jax.models.qqmm import Qqmm as Qqmm
    from ega_jax.models.qqmm_config import QqmmConfig as QqmmConfig
    from ega_jax.models.qwen2_vl import Qwen2Vl as Qwen2Vl
    from ega_jax.models.qwen2_vl_config import Qwen2VlConfig as Qwen2VlConfig
    from ega_jax.models.weights import load_weights as load_weights
    from ega_jax.models.weights import save_weights as save_weights

_HOME = {
    "BACKBONES": "backbones",
    "Backbone": "backbone",
    "EmbeddingModel": "embedding_model",
    "Qqmm": "qqmm",
    "QqmmConfig": "qqmm_config",
    "Qwen2Vl": "qwen2_vl",
    "Qwen2VlConfig": "qwen2_vl_config",
    "AnyresConfig": "anyres",
    "Compute": "layers",
    "LlavaOnevision": "llava_onevision",
    "LlavaOnevisionConfig": "llava_onevision_config",
    "LoraConfig": "lora_config",
    "PRESETS": "presets",
    "add_lora": "lora",
    "build": "presets",
    "load": "presets",
    "load_config": "presets",
    "load_weights": "weights",
    "logical_axes": "layers",
    "merge_lora": "lora",
    "save": "presets",
    "save_weights": "weights",
}
__all__ = [
    "BACKBONES",
    "PRESETS",
    "AnyresConfig",
    "Backbone",
    "Compute",
    "EmbeddingModel",
    "LlavaOnevision",
    "LlavaOnevisionConfig",
    "LoraConfig",
    "Qqmm",
    "QqmmConfig",
    "Qwen2Vl",
    "Qwen2VlConfig",
    "add_lora",
    "build",
    "load",
    "load_config",
    "load_weights",
    "logical_axes",
    "merge_lora",
    "save",
    "save_weights",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"ega_jax.models.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ega_jax.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
