"""What a backbone must provide: all that the rest of the project knows of one.

A backbone is a config, a model and a host side for its pictures; `backbones.py` lists the ones that there are, by the
`model_type` of their `config.json`, and docs/adding_a_backbone.md walks through adding one. Numpy and PIL objects
alone cross the host side; the model sees arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int
    from PIL import Image

    from ega_jax.models.embedding_model import EmbeddingModel
    from ega_jax.models.qwen2_config import Qwen2Config

Size = tuple[int, int]
"""(height, width), in pixels."""


class BackboneConfig(Protocol):
    """Sizes and rules of a whole model: a frozen dataclass.

    Attributes:
      model_type: that of its published `config.json`.
      text: the decoder's sizes; its `vocab_size` is the number of rows of the embedding table.
      image: the rules for pictures.
      image_token_id: the placeholder of visual tokens.
    """

    model_type: ClassVar[str]

    @property
    def text(self) -> Qwen2Config: ...

    @property
    def image(self) -> Any: ...

    @property
    def image_token_id(self) -> int: ...

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> Self:
        """Reads a parsed `config.json`, and `preprocessor_config.json` where there is one.

        Raises:
          BadInputError: a setting that is not carried out here, by name.
        """

    def to_hf(self) -> dict[str, Any]:
        """The published `config.json`."""

    def preprocessor_to_hf(self) -> dict[str, Any]:
        """The published `preprocessor_config.json`."""

    def with_vocabulary(self, vocab_size: int, **token_ids: Any) -> Self:
        """The same model over another vocabulary: `image_token_id=...` and the other tokens of its `config.json`."""

    def with_resolution(self, *, max_tiles: int | None, base_only: bool, max_pixels: int | None) -> Self:
        """The same model at the resolution that the settings ask for.

        Raises:
          BadInputError: a setting that means nothing to this backbone.
        """

    def lower_resolutions(self) -> Iterator[Self]:
        """The same model at one resolution below the other: what pictures may shrink to."""


class RowImages(Protocol):
    """The decoded pictures of one row, in a form of the backbone's own.

    Attributes:
      tokens_per_image: visual tokens of each picture, in order.
      units: what they take of the batch's image slots, in the backbone's unit.
    """

    @property
    def tokens_per_image(self) -> tuple[int, ...]: ...

    @property
    def units(self) -> int: ...


class ImageCost(NamedTuple):
    """What the pictures of one row will take, known from their sizes alone.

    Attributes:
      tokens: visual tokens.
      units: slots, in the backbone's unit.
    """

    tokens: int
    units: int


class Placed(NamedTuple):
    """The pictures of one row, and where in a batch they go.

    Attributes:
      group, row: the row's place.
      tokens: (V,) where in the row its visual tokens stand.
      first_unit: image slots of the group that earlier rows have taken.
      images: the pictures.
    """

    group: int
    row: int
    tokens: Int[np.ndarray, " V"]
    first_unit: int
    images: Any


class ImageLayout(Protocol):
    """The host side of a backbone's vision: numpy and PIL alone, called from several threads.

    Pictures fill *units*, of which a batch has a fixed number of slots: tiles for LLaVA-OneVision, patches for QQMM.

    Attributes:
      unit: what a unit is called in messages, plural.
      buckets: the slots a row that may be compiled unless the settings say others, ascending.
    """

    @property
    def unit(self) -> str: ...

    @property
    def buckets(self) -> tuple[int, ...]: ...

    def measure(self, sizes: Sequence[Size]) -> ImageCost:
        """What the pictures of one row take, without decoding them.

        Raises:
          images.ImageError or BadInputError: no rule covers a picture of this size.
        """

    def prepare(self, pictures: Sequence[Image.Image]) -> RowImages:
        """The decoded pictures of one row; takes exactly what `measure` foretold."""

    def collate(
        self, placed: Sequence[Placed], *, groups: int, rows: int, length: int, units: int
    ) -> dict[str, np.ndarray]:
        """The pictures' share of a batch's inputs: arrays with a leading axis `groups`.

        Args:
          placed: rows that have pictures; they fit.
          groups: parts of the batch that are encoded by themselves.
          rows: rows of a group.
          length: tokens of a row.
          units: image slots of a group.
        """


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One backbone.

    Attributes:
      config: its sizes and rules, two-way with the published files.
      model: built as `model(config, compute=..., rngs=...)`; its attribute `names` is the table of published names.
      layout: from a config's `image` to the host side.
      presets: configs by name, for `build` and the settings' `model.preset`.
      adds_image_token: its published tokenizer lacks `<image>`, which gets the next free id.
    """

    config: type[Any]
    model: type[EmbeddingModel]
    layout: Callable[[Any], ImageLayout]
    presets: Mapping[str, Any]
    adds_image_token: bool = False
