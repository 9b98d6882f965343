"""What the configs of backbones with packed patches share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Self

from ega_jax.errors import BadInputError
from ega_jax.models.navit import NavitConfig
from ega_jax.models.qwen2_config import Qwen2Config


@dataclasses.dataclass(frozen=True)
class PatchBackboneConfig:
    """A NaViT tower and a Qwen2 decoder.

    Attributes:
      vision, text: the tower and the decoder.
      image: how pictures become patches (host side); its patch size is the tower's.
      image_token_id: the placeholder of visual tokens.
    """

    vision: NavitConfig
    text: Qwen2Config
    image: Any
    image_token_id: int

    def __post_init__(self) -> None:
        if self.image.patch_size != self.vision.patch_size:
            raise BadInputError(
                f"image patches of {self.image.patch_size} px do not fit a tower of {self.vision.patch_size} px"
            )
        if self.vision.intermediate_size % self.vision.hidden_size:
            raise BadInputError(
                f"vision intermediate_size={self.vision.intermediate_size} is not a multiple of "
                f"hidden_size={self.vision.hidden_size}: config.json tells their ratio alone"
            )

    def with_vocabulary(self, vocab_size: int, **token_ids: Any) -> Self:
        """The same model over another vocabulary; the ids of tokens that it does not speak of are left aside."""
        known = {field.name for field in dataclasses.fields(self)}
        token_ids = {name: token_id for name, token_id in token_ids.items() if name in known}
        return dataclasses.replace(self, text=dataclasses.replace(self.text, vocab_size=vocab_size), **token_ids)

    def with_resolution(self, *, max_tiles: int | None, base_only: bool, max_pixels: int | None) -> Self:
        """The same model with at most `max_pixels` pixels a picture after resizing.

        Raises:
          BadInputError: fewer pixels than one visual token has, or tiles are spoken of; there are none.
        """
        if max_tiles is not None or base_only:
            raise BadInputError(
                "model.max_tiles and model.base_only speak of tiles, which this backbone does not have: set "
                "model.max_pixels"
            )
        if max_pixels is None:
            return self
        if max_pixels < self.image.block_size**2:
            raise BadInputError(
                f"model.max_pixels={max_pixels} is less than the {self.image.block_size**2} of one visual token"
            )
        return dataclasses.replace(self, image=self.image.with_max_pixels(max_pixels))

    def lower_resolutions(self) -> Iterator[Self]:
        """The same model with four fifths of the pixels each time, down to about one visual token a picture."""
        pixels = self.image.max_pixels
        while (pixels := pixels * 4 // 5) >= self.image.block_size**2:
            yield self.with_resolution(max_tiles=None, base_only=False, max_pixels=pixels)
