"""What a Qwen2-VL is, and its two-way reading of the published `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ega_jax.errors import BadInputError
from ega_jax.models.navit import NavitConfig
from ega_jax.models.patch_config import PatchBackboneConfig
from ega_jax.models.published_config import expect
from ega_jax.models.qwen2_config import qwen2_from_hf, qwen2_to_hf
from ega_jax.models.qwen2_vl_images import Qwen2VlImageConfig
from ega_jax.models.qwen2_vl_names import FRAMES


@dataclasses.dataclass(frozen=True)
class Qwen2VlConfig(PatchBackboneConfig):
    """Sizes and rules of the whole model, besides those of `PatchBackboneConfig`.

    Attributes:
      video_token_id: the placeholder of a video's visual tokens.
      vision_start_token_id: what stands before a picture's.
      vision_end_token_id: what stands behind them.
    """

    model_type: ClassVar[str] = "qwen2_vl"

    image: Qwen2VlImageConfig
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text.mrope_section is None or self.vision.frames != FRAMES:
            raise BadInputError(f"Qwen2-VL needs a decoder with an mrope_section, and patches of {FRAMES} frames")

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> Qwen2VlConfig:
        """Reads a published `config.json`, of transformers 4.45 to 5.

        Args:
          hf: the parsed file. The decoder's fields stand at its top (as published) or in `text_config` (since 4.52).
            Fields that it leaves out have the defaults of their transformers class.
          preprocessor: the parsed `preprocessor_config.json`; without it the published areas and CLIP's mean and
            standard deviation are taken.

        Raises:
          BadInputError: a setting that is not carried out here, by name.
        """
        expect(hf, "model_type", "qwen2_vl")
        nested = hf.get("text_config")
        text = {**hf, "model_type": "qwen2_vl_text"} if nested is None else dict(nested)
        text["tie_word_embeddings"] = hf.get("tie_word_embeddings") or text.get("tie_word_embeddings", False)
        vision = {**_VISION_DEFAULTS, **(hf.get("vision_config") or {})}
        config = cls(
            vision=_vision_from_hf(vision),
            text=qwen2_from_hf(
                text,
                model_type="qwen2_vl_text",
                defaults=_TEXT_DEFAULTS,
                mrope=True,
                where="" if nested is None else "text_config.",
            ),
            image=_image_from_hf(preprocessor, vision),
            **{name: hf.get(name, default) for name, default in _TOKENS.items()},
        )
        expect(vision, "hidden_size", config.text.hidden_size, where="vision_config.")
        return config

    def to_hf(self) -> dict[str, Any]:
        """The published `config.json`, which transformers 4.45 to 5 read."""
        return {
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "model_type": "qwen2_vl",
            **{name: getattr(self, name) for name in _TOKENS},
            **qwen2_to_hf(self.text),
            "vision_config": {
                "depth": self.vision.num_hidden_layers,
                "embed_dim": self.vision.hidden_size,
                "hidden_act": "quick_gelu",
                "hidden_size": self.text.hidden_size,
                "in_channels": 3,
                "mlp_ratio": self.vision.intermediate_size // self.vision.hidden_size,
                "num_heads": self.vision.num_attention_heads,
                "patch_size": self.vision.patch_size,
                "spatial_merge_size": self.image.merge_size,
                "temporal_patch_size": FRAMES,
            },
        }

    def preprocessor_to_hf(self) -> dict[str, Any]:
        """The published `preprocessor_config.json`."""
        return {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
            "image_mean": list(self.image.mean),
            "image_std": list(self.image.std),
            "min_pixels": self.image.min_pixels,
            "max_pixels": self.image.max_pixels,
            "merge_size": self.image.merge_size,
            "patch_size": self.image.patch_size,
            "temporal_patch_size": FRAMES,
        }


_TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
_TEXT_DEFAULTS = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768,
}
_VISION_DEFAULTS = {
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "mlp_ratio": 4,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
}
"""What transformers' Qwen2-VL takes for a field of which nothing is said."""


def _vision_from_hf(hf: Mapping[str, Any]) -> NavitConfig:
    where = "vision_config."
    if hf.get("model_type") != "qwen2_vl":  # what transformers 4.x calls the tower too
        expect(hf, "model_type", "qwen2_vl_vision", where=where)
    expect(hf, "hidden_act", "quick_gelu", where=where)
    expect(hf, "in_channels", 3, where=where)
    expect(hf, "temporal_patch_size", FRAMES, where=where)
    expect(hf, "rope_parameters", {"rope_type": "axial", "rope_theta": 10000.0}, where=where)
    return NavitConfig(
        hidden_size=hf["embed_dim"],
        intermediate_size=int(hf["embed_dim"] * hf["mlp_ratio"]),
        num_hidden_layers=hf["depth"],
        num_attention_heads=hf["num_heads"],
        patch_size=hf["patch_size"],
        frames=FRAMES,
    )


def _image_from_hf(preprocessor: Mapping[str, Any] | None, vision: Mapping[str, Any]) -> Qwen2VlImageConfig:
    """The host's rules; the areas are `min_pixels` and `max_pixels` as published, or in `size` (since 4.52)."""
    config = Qwen2VlImageConfig(patch_size=vision["patch_size"], merge_size=vision["spatial_merge_size"])
    if preprocessor is None:
        return config
    for name, value in (
        ("do_resize", True),
        ("do_rescale", True),
        ("do_normalize", True),
        ("do_convert_rgb", True),
        ("rescale_factor", 1 / 255),
        ("resample", 3),
        ("patch_size", config.patch_size),
        ("merge_size", config.merge_size),
        ("temporal_patch_size", FRAMES),
    ):
        expect(preprocessor, name, value, file="preprocessor_config.json")
    size = preprocessor.get("size") or {}
    return dataclasses.replace(
        config,
        min_pixels=preprocessor.get("min_pixels") or size.get("shortest_edge") or 56 * 56,
        # transformers' default, which is not what is published
        max_pixels=preprocessor.get("max_pixels") or size.get("longest_edge") or 1280 * 28 * 28,
        mean=tuple(preprocessor.get("image_mean") or config.mean),
        std=tuple(preprocessor.get("image_std") or config.std),
    )
