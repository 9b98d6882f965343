"""What a LLaVA-OneVision is, and its two-way reading of the published `config.json`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ega_jax.errors import BadInputError
from ega_jax.models.anyres import AnyresConfig
from ega_jax.models.published_config import expect
from ega_jax.models.qwen2_config import Qwen2Config, qwen2_from_hf, qwen2_to_hf
from ega_jax.models.siglip import SiglipConfig


@dataclasses.dataclass(frozen=True)
class LlavaOnevisionConfig:
    """Sizes and rules of the whole model.

    Attributes:
      vision, text: the tower and the decoder.
      image: how pictures become tiles (host side); its tile and grid sizes are the tower's.
      image_token_id, video_token_id: the placeholders of visual tokens.
    """

    model_type: ClassVar[str] = "llava_onevision"

    vision: SiglipConfig
    text: Qwen2Config
    image: AnyresConfig
    image_token_id: int
    video_token_id: int

    def __post_init__(self) -> None:
        if (self.image.tile_size, self.image.grid_size) != (self.vision.image_size, self.vision.grid_size):
            raise BadInputError(
                f"image tiles of {self.image.tile_size} px, {self.image.grid_size} features a side, do not "
                f"fit a tower of {self.vision.image_size} px and {self.vision.grid_size}"
            )

    def with_vocabulary(self, vocab_size: int, **token_ids: Any) -> LlavaOnevisionConfig:
        """The same model over another vocabulary: `image_token_id=...` and `video_token_id=...`."""
        text = dataclasses.replace(self.text, vocab_size=vocab_size)
        return dataclasses.replace(self, text=text, **token_ids)

    def with_resolution(
        self, *, max_tiles: int | None, base_only: bool, max_pixels: int | None
    ) -> LlavaOnevisionConfig:
        """The same model with at most `max_tiles` tiles a picture beside the base, or with the base alone.

        Raises:
          BadInputError: no tiles are left, or pixels are spoken of.
        """
        if max_pixels is not None:
            raise BadInputError("model.max_pixels: LLaVA-OneVision cuts pictures into tiles; set model.max_tiles")
        image = dataclasses.replace(self.image, max_tiles=max_tiles, base_only=base_only)
        return dataclasses.replace(self, image=image)

    def lower_resolutions(self) -> Iterator[LlavaOnevisionConfig]:
        """The same model with fewer and fewer tiles a picture, down to the base tile."""
        if self.image.base_only:
            return
        tiles = {height * width // self.image.tile_size**2 for height, width in self.image.resolutions}
        for most in sorted(tiles, reverse=True)[1:]:
            yield self.with_resolution(max_tiles=most, base_only=False, max_pixels=None)
        yield self.with_resolution(max_tiles=self.image.max_tiles, base_only=True, max_pixels=None)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> LlavaOnevisionConfig:
        """Reads a published `config.json`, of transformers 4.45 to 5.

        Args:
          hf: the parsed file. Fields that it leaves out have the defaults of their transformers class.
          preprocessor: the parsed `preprocessor_config.json`, where pixels' mean and standard deviation stand; without
            it they are 0.5, as published.

        Raises:
          BadInputError: a setting that is not carried out here, by name.
        """
        if hf.get("model_type") != "llava_onevision":
            raise BadInputError(f"config.json: model_type={hf.get('model_type')!r} is not 'llava_onevision'")
        expect(hf, "projector_hidden_act", "gelu")
        expect(hf, "vision_feature_select_strategy", "full")
        expect(hf, "vision_feature_layer", -1)
        expect(hf, "multimodal_projector_bias", True)
        expect(hf, "use_image_newline_parameter", True)
        vision = _vision_from_hf(hf.get("vision_config") or _SO400M)
        ratio = re.fullmatch(r"anyres_max_(\d+)", hf.get("vision_aspect_ratio", "anyres_max_9"))
        if ratio is None:
            raise BadInputError(
                f"config.json: vision_aspect_ratio={hf['vision_aspect_ratio']!r} must be 'anyres_max_N'"
            )
        image = AnyresConfig(
            tile_size=vision.image_size,
            grid_size=vision.grid_size,
            pinpoints=_pinpoints(hf.get("image_grid_pinpoints"), vision.image_size),
            max_patches=int(ratio[1]),
            **_normalisation(preprocessor or {}, vision.image_size),
        )
        text = dict(hf.get("text_config", {}))
        text["tie_word_embeddings"] = text.get("tie_word_embeddings", False) or hf.get("tie_word_embeddings", False)
        return cls(
            vision=vision,
            text=qwen2_from_hf(text),
            image=image,
            image_token_id=hf.get("image_token_index", hf.get("image_token_id", 151646)),
            video_token_id=hf.get("video_token_index", hf.get("video_token_id", 151647)),
        )

    def to_hf(self) -> dict[str, Any]:
        """The published `config.json`, which transformers 4.45 to 5 read."""
        return {
            "architectures": ["LlavaOnevisionForConditionalGeneration"],
            "model_type": "llava_onevision",
            "image_grid_pinpoints": [list(pinpoint) for pinpoint in self.image.pinpoints],
            "image_token_index": self.image_token_id,
            "video_token_index": self.video_token_id,
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": True,
            "use_image_newline_parameter": True,
            "vision_aspect_ratio": f"anyres_max_{self.image.max_patches}",
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "tie_word_embeddings": self.text.tie_word_embeddings,
            "text_config": {"model_type": "qwen2", **qwen2_to_hf(self.text)},
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_act": "gelu_pytorch_tanh",
                "num_channels": 3,
                "vision_use_head": False,
                **dataclasses.asdict(self.vision),
            },
        }

    def processor_to_hf(self) -> dict[str, Any]:
        """The published `processor_config.json`: how transformers' processor counts visual tokens."""
        return {
            "processor_class": "LlavaOnevisionProcessor",
            "image_token": "<image>",
            "video_token": "<video>",
            "num_image_tokens": self.vision.num_patches,
            "vision_aspect_ratio": f"anyres_max_{self.image.max_patches}",
            "vision_feature_select_strategy": "full",
        }

    def preprocessor_to_hf(self) -> dict[str, Any]:
        """The published `preprocessor_config.json`."""
        side = self.image.tile_size
        return {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_grid_pinpoints": [list(pinpoint) for pinpoint in self.image.pinpoints],
            "image_mean": list(self.image.mean),
            "image_std": list(self.image.std),
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": side, "width": side},
        }


_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 14,
    "image_size": 384,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
}
"""What transformers' LLaVA-OneVision takes for a tower of which nothing is said."""


def _vision_from_hf(hf: Mapping[str, Any]) -> SiglipConfig:
    where = "vision_config."
    expect(hf, "model_type", "siglip_vision_model", where=where)
    expect(hf, "hidden_act", "gelu_pytorch_tanh", where=where)
    expect(hf, "num_channels", 3, where=where)
    return SiglipConfig(
        hidden_size=hf.get("hidden_size", 768),
        intermediate_size=hf.get("intermediate_size", 3072),
        num_hidden_layers=hf.get("num_hidden_layers", 12),
        num_attention_heads=hf.get("num_attention_heads", 12),
        image_size=hf.get("image_size", 224),
        patch_size=hf.get("patch_size", 16),
        layer_norm_eps=hf.get("layer_norm_eps", 1e-6),
    )


def _pinpoints(published: list[list[int]] | None, tile_size: int) -> tuple[tuple[int, int], ...]:
    if published is None:  # transformers' default is 1x1 to 6x6 tiles of 384 px
        return tuple((tile_size * a, tile_size * b) for a in range(1, 7) for b in range(1, 7))
    return tuple((height, width) for height, width in published)


def _normalisation(preprocessor: Mapping[str, Any], tile_size: int) -> dict[str, Any]:
    """Mean and standard deviation per colour; 0.5, as published, where nothing is said."""
    for name, value in (
        ("do_rescale", True),
        ("do_normalize", True),
        ("rescale_factor", 1 / 255),
        ("resample", 3),
        ("size", {"height": tile_size, "width": tile_size}),
    ):
        expect(preprocessor, name, value, file="preprocessor_config.json")
    mean, std = (preprocessor.get(name, (0.5, 0.5, 0.5)) for name in ("image_mean", "image_std"))
    return {"mean": tuple(mean), "std": tuple(std)}
