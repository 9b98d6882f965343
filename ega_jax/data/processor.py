"""From sides to the arrays that a backbone eats: tokens, pictures, and which features each visual token draws on.

What is equal in all backbones is here; how pictures are laid out is each backbone's own `ImageLayout`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ega_jax.data import images, prompts
from ega_jax.data.records import Side
from ega_jax.models.backbone import Placed
from ega_jax.models.backbones import backbone_of

if TYPE_CHECKING:
    from jaxtyping import Int32

    from ega_jax.data.buckets import Bucket
    from ega_jax.data.tokenizer import Tokenizer
    from ega_jax.models.backbone import BackboneConfig, ImageLayout, RowImages, Size

Inputs = dict[str, np.ndarray]
"""One batch of a backbone's inputs; its model class describes the arrays."""


_MEASURE_VERSION = 1
"""Raised when the same side comes to take another number of tokens or image slots."""


class Sizes(NamedTuple):
    """What each of n sides will take, known without decoding a picture.

    Attributes:
      tokens: (n,) length of the token row, visual tokens included, text uncut.
      units: (n,) image slots, in the backbone's unit (tiles or patches).
    """

    tokens: Int32[np.ndarray, " n"]
    units: Int32[np.ndarray, " n"]


class Example(NamedTuple):
    """One side, ready to be laid into a batch.

    Attributes:
      input_ids: (T,) token ids, visual placeholders expanded.
      images: its pictures, as the backbone's layout prepared them.
    """

    input_ids: Int32[np.ndarray, " T"]
    images: RowImages


class Processor:
    """The host side of a model."""

    def __init__(
        self,
        config: BackboneConfig,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        max_units: int | None = None,
        system: str | None = None,
    ) -> None:
        """
        Args:
          config: the model's.
          tokenizer: text to ids.
          max_tokens: the longest row; a longer text loses its end, visual tokens are never cut.
          max_units: most image slots of a row. Pictures that take more, or more tokens than `max_tokens` leaves them,
            come at the highest of the model's lower resolutions that fits; with None they come as they are.
          system: the system turn, "" for none; by default the backbone's own.
        """
        layout = backbone_of(config.model_type).layout
        self.layout = layout(config.image)
        lower = () if max_units is None else config.lower_resolutions()
        self._layouts = [self.layout, *(layout(smaller.image) for smaller in lower)]
        self._image_config = (config.model_type, config.image)
        self._template = prompts.template_of(config.model_type, system)
        self._tokenizer = tokenizer
        self._max_tokens, self._max_units = max_tokens, max_units
        self._room = functools.cache(self._room_for_pictures)
        self._size = functools.lru_cache(maxsize=1 << 20)(images.image_size)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides what `measure` returns: equal fingerprints, equal sizes."""
        parts = (_MEASURE_VERSION, self._tokenizer.fingerprint, self._template, self._image_config)
        limits = () if self._max_units is None else (self._max_tokens, self._max_units)
        return hashlib.sha256(repr((*parts, *limits)).encode()).hexdigest()[:16]

    def measure(self, sides: Sequence[Side]) -> Sizes:
        """Tokens and image slots of each side, from the texts and the headers of the image files.

        Raises:
          images.ImageError: a header cannot be read, or pictures do not fit at any resolution.
        """
        image_sizes = [self._image_sizes(side) for side in sides]
        costs = [self._fitting(sizes).measure(sizes) for sizes in image_sizes]
        text = prompts.text_lengths(sides, self._tokenizer, template=self._template)
        visual = np.asarray([cost.tokens for cost in costs], np.int32)
        return Sizes(text + visual, np.asarray([cost.units for cost in costs], np.int32))

    def require_room(self, side: Side) -> None:
        """Checks by the headers that the pictures of a side fit the longest row.

        Raises:
          images.ImageError: a header cannot be read, or the pictures take more tokens than `max_tokens` leaves beside
            the template.
        """
        sizes = self._image_sizes(side)
        tokens, room = self._fitting(sizes).measure(sizes).tokens, self._room(len(sizes))
        if tokens > room:
            raise images.ImageError(
                f"the row's pictures take {tokens} tokens, more than the {room} that {self._max_tokens}, "
                "the largest of data.token_buckets, has beside the template"
            )

    def prepare(self, side: Side) -> Example:
        """Decodes and encodes one side.

        Raises:
          images.ImageError: a picture cannot be decoded, or pictures do not fit at any resolution.
          BadInputError: its pictures alone take more than `max_tokens`, and may not shrink.
        """
        pictures = [images.open_image(source) for source in side.images]
        row = self._fitting([(picture.height, picture.width) for picture in pictures]).prepare(pictures)
        (ids,) = prompts.encode(
            [side], self._tokenizer, [row.tokens_per_image], template=self._template, max_tokens=self._max_tokens
        )
        return Example(ids, row)

    def collate(self, examples: Sequence[Example | None], bucket: Bucket, groups: int) -> Inputs:
        """Lays examples into fixed shapes.

        Args:
          examples: `groups` x R of them, in batch order; None is an empty row (it has one real token, so that its
            embedding is finite).
          bucket: the padded sizes; each group of R rows gets R x `bucket.units` image slots that its rows share.
          groups: parts of the batch that are encoded by themselves, each on one device.

        Returns:
          The inputs, every array with leading axes (groups, R) or, for the pictures, (groups, slots).

        Raises:
          ValueError: an example does not fit the bucket.
        """
        rows = len(examples) // groups
        slots, length = rows * bucket.units, bucket.tokens
        ids = np.full((groups, rows, length), self._tokenizer.pad_id, np.int32)
        mask = np.zeros((groups, rows, length), bool)
        mask[:, :, 0] = True
        placed = []
        for group in range(groups):
            used = 0
            for row, example in enumerate(examples[group * rows : (group + 1) * rows]):
                if example is None:
                    continue
                tokens, count = len(example.input_ids), example.images.units
                if tokens > length or used + count > slots:
                    raise ValueError(
                        f"{tokens} tokens and {used + count} {self.layout.unit} do not fit {bucket} with {rows} rows"
                    )
                ids[group, row, :tokens] = example.input_ids
                mask[group, row, :tokens] = True
                if count:
                    visual = np.flatnonzero(example.input_ids == self._tokenizer.image_id)
                    placed.append(Placed(group, row, visual, used, example.images))
                used += count
        pictures = self.layout.collate(placed, groups=groups, rows=rows, length=length, units=slots)
        return {"input_ids": ids, "attention_mask": mask, **pictures}

    def _fitting(self, sizes: Sequence[Size]) -> ImageLayout:
        """The layout of the highest resolution at which the pictures of a row fit."""
        if self._max_units is None or not sizes:
            return self.layout
        room = self._room(len(sizes))
        for layout in self._layouts:
            cost = layout.measure(sizes)
            if cost.units <= self._max_units and cost.tokens <= room:
                return layout
        raise images.ImageError(
            f"at the lowest resolution the row's pictures take {cost.units} {self.layout.unit} and {cost.tokens} "
            f"tokens, more than the {self._max_units} and {room} there is room for"
        )

    def _room_for_pictures(self, count: int) -> int:
        """Tokens that so many pictures may take, were the user's text cut to nothing."""
        empty = Side("", (Path(),) * count)
        return self._max_tokens - int(prompts.text_lengths([empty], self._tokenizer, template=self._template)[0])

    def _image_sizes(self, side: Side) -> list[tuple[int, int]]:
        return [self._size(source) if isinstance(source, Path) else images.image_size(source) for source in side.images]
