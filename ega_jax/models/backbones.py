"""The backbones that there are, by the `model_type` of their `config.json`."""

from __future__ import annotations

from ega_jax.errors import BadInputError
from ega_jax.models.anyres_layout import AnyresLayout
from ega_jax.models.backbone import Backbone
from ega_jax.models.llava_onevision import LlavaOnevision
from ega_jax.models.llava_onevision_config import LlavaOnevisionConfig
from ega_jax.models.llava_onevision_presets import LLAVA_ONEVISION_PRESETS
from ega_jax.models.qqmm import Qqmm
from ega_jax.models.qqmm_config import QqmmConfig
from ega_jax.models.qqmm_images import QqmmLayout
from ega_jax.models.qqmm_presets import QQMM_PRESETS
from ega_jax.models.qwen2_vl import Qwen2Vl
from ega_jax.models.qwen2_vl_config import Qwen2VlConfig
from ega_jax.models.qwen2_vl_images import Qwen2VlLayout
from ega_jax.models.qwen2_vl_presets import QWEN2_VL_PRESETS

BACKBONES: dict[str, Backbone] = {
    "llava_onevision": Backbone(
        config=LlavaOnevisionConfig,
        model=LlavaOnevision,
        layout=AnyresLayout,
        presets=LLAVA_ONEVISION_PRESETS,
    ),
    "qqmm": Backbone(
        config=QqmmConfig,
        model=Qqmm,
        layout=QqmmLayout,
        presets=QQMM_PRESETS,
        adds_image_token=True,
    ),
    "qwen2_vl": Backbone(
        config=Qwen2VlConfig,
        model=Qwen2Vl,
        layout=Qwen2VlLayout,
        presets=QWEN2_VL_PRESETS,
    ),
}


def backbone_of(model_type: str | None) -> Backbone:
    """The backbone of a `model_type`, as a `config.json` has it.

    Raises:
      BadInputError: there is none.
    """
    if model_type is None or model_type not in BACKBONES:
        raise BadInputError(f"config.json: model_type={model_type!r} is none of {', '.join(sorted(BACKBONES))}")
    return BACKBONES[model_type]
