"""What a QQMM is, and its two-way reading of the published `config.json`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from ega_jax.errors import BadInputError
from ega_jax.models.navit import NavitConfig
from ega_jax.models.patch_config import PatchBackboneConfig
from ega_jax.models.published_config import expect
from ega_jax.models.qqmm_images import QqmmImageConfig
from ega_jax.models.qqmm_names import MOST_PROJECTION_LAYERS
from ega_jax.models.qwen2_config import qwen2_from_hf, qwen2_to_hf

_PREPROCESSOR = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class QqmmConfig(PatchBackboneConfig):
    """Sizes and rules of the whole model, besides those of `PatchBackboneConfig`.

    Attributes:
      projection_layers: linear maps between the two.
      share_image_positions: all tokens of a picture have one rotary position.
    """

    model_type: ClassVar[str] = "qqmm"

    image: QqmmImageConfig
    projection_layers: int = 2
    share_image_positions: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.projection_layers <= MOST_PROJECTION_LAYERS:
            raise BadInputError(
                f"a projection of {self.projection_layers} layers is not supported; 1 to {MOST_PROJECTION_LAYERS} are"
            )

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> QqmmConfig:
        """Reads a published `config.json`.

        Args:
          hf: the parsed file. What decides which tensors there are, and the image token, must be in it.
          preprocessor: the parsed `preprocessor_config.json`. The published one has the limits of the chat model
            (2,048 patches a picture, 4,096 a row), which the published embedder overrides in its evaluation: where they
            stand, the embedder's (8,192 and 10,240) are taken. Any others are taken as they are.

        Raises:
          BadInputError: a setting that is missing or not carried out here, by name.
        """
        expect(hf, "model_type", "qqmm")
        # Its class' default is a key that its own tower has not got, so the file must say that there is none.
        expect({"vision_output_key": hf.get("vision_output_key")}, "vision_output_key", "")
        vision = _vision_from_hf(_part(hf, "vision_model_config"))
        abstractor = _part(hf, "vision_abstractor_config")
        expect(abstractor, "exist_cls_embedding", False, where="vision_abstractor_config.")
        if not isinstance(hf.get("image_token_id"), int):
            raise BadInputError(f"config.json: image_token_id={hf.get('image_token_id')!r} must be the id of <image>")
        preprocessor = preprocessor or {}
        return cls(
            vision=vision,
            text=qwen2_from_hf(_part(hf, "language_model_config"), where="language_model_config."),
            image=_image_from_hf(preprocessor, vision.patch_size),
            image_token_id=hf["image_token_id"],
            projection_layers=_projection_layers(abstractor.get("projection_type")),
            share_image_positions=preprocessor.get("vision_token_share_pe", True),
        )

    def to_hf(self) -> dict[str, Any]:
        """The published `config.json`."""
        return {
            "model_type": "qqmm",
            "image_token_id": self.image_token_id,
            "vision_output_key": "",
            "vision_abstractor_config": {
                "projection_type": f"mlp{self.projection_layers}x_gelu",
                "exist_cls_embedding": False,
            },
            "vision_model_config": {
                "model_type": "qwen2vl_navit",
                "depth": self.vision.num_hidden_layers,
                "hidden_size": self.vision.hidden_size,
                "num_heads": self.vision.num_attention_heads,
                "mlp_ratio": self.vision.intermediate_size // self.vision.hidden_size,
                "patch_size": self.vision.patch_size,
                "in_channels": 3,
                "hidden_act": "quick_gelu",
            },
            "language_model_config": {"model_type": "qwen2", **qwen2_to_hf(self.text)},
        }

    def preprocessor_to_hf(self) -> dict[str, Any]:
        """The published `preprocessor_config.json`; `enlarge_to`, EmbedBot's first step, is our own addition."""
        image = self.image
        return {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "enlarge_to": image.enlarge_to,
            "image_mean": list(image.mean),
            "image_std": list(image.std),
            "max_single_num_patches": {"image": image.max_patches, "video": image.max_patches},
            "max_total_num_patches": image.max_row_patches,
            "merge_size": image.merge_size,
            "min_resized_num_patches": image.min_resized_patches,
            "patch_size": image.patch_size,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": image.shortest_edge, "longest_edge": image.longest_edge},
            "vision_token_share_pe": self.share_image_positions,
        }


def _part(hf: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(hf.get(name), Mapping):
        raise BadInputError(f"config.json: {name} is missing")
    return hf[name]


def _vision_from_hf(hf: Mapping[str, Any]) -> NavitConfig:
    """The tower's sizes; those of Qwen2-VL's where nothing is said."""
    where = "vision_model_config."
    expect(hf, "in_channels", 3, where=where)
    expect(hf, "hidden_act", "quick_gelu", where=where)
    hidden = hf.get("hidden_size", 1280)
    return NavitConfig(
        hidden_size=hidden,
        intermediate_size=int(hidden * hf.get("mlp_ratio", 4)),
        num_hidden_layers=hf.get("depth", 32),
        num_attention_heads=hf.get("num_heads", 16),
        patch_size=hf.get("patch_size", 14),
    )


def _projection_layers(published: str | None) -> int:
    found = re.fullmatch(r"mlp(\d+)x_gelu", published or "")
    if found is None:
        raise BadInputError(
            f"config.json: vision_abstractor_config.projection_type={published!r} must be 'mlpNx_gelu', where N is the "
            "number of vision_abstractor.projection.*.weight tensors"
        )
    return int(found[1])


_CHAT_LIMITS = {"max_patches": 2048, "max_row_patches": 4096, "min_resized_patches": -1}


def _image_from_hf(hf: Mapping[str, Any], patch_size: int) -> QqmmImageConfig:
    for name, value in (
        ("do_rescale", True),
        ("do_normalize", True),
        ("rescale_factor", 1 / 255),
        ("resample", 3),
        ("patch_size", patch_size),
    ):
        expect(hf, name, value, file=_PREPROCESSOR)
    size, single = hf.get("size") or {}, hf.get("max_single_num_patches")
    said: dict[str, Any] = {
        "merge_size": hf.get("merge_size"),
        "shortest_edge": size.get("shortest_edge"),
        "longest_edge": size.get("longest_edge"),
        "max_patches": single.get("image") if isinstance(single, Mapping) else single,
        "max_row_patches": hf.get("max_total_num_patches"),
        "min_resized_patches": hf.get("min_resized_num_patches"),
        "mean": tuple(hf.get("image_mean") or ()),
        "std": tuple(hf.get("image_std") or ()),
    }
    if all(said[name] == value for name, value in _CHAT_LIMITS.items()):
        said |= dict.fromkeys(_CHAT_LIMITS)
    chosen: dict[str, Any] = {name: value for name, value in said.items() if value not in (None, ())}
    if "enlarge_to" in hf:  # null is a choice too
        chosen["enlarge_to"] = hf["enlarge_to"]
    return QqmmImageConfig(patch_size=patch_size, **chosen)
