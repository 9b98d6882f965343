"""What every backbone shares: visual tokens among the text's -> decoder -> the last token's hidden state."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, UInt8

    from ega_jax.models.backbone import BackboneConfig
    from ega_jax.models.layers import Compute
    from ega_jax.models.name_table import NameTable
    from ega_jax.models.qwen2 import Qwen2


TOWER_FEATURES = "tower_features"
"""The name under which a rematerialization policy finds what a tower made of the pictures, before any projection."""


class EmbeddingModel(nnx.Module):
    """A tower whose features stand among the text's tokens, and a decoder over both.

    A subclass sets `config`, `compute`, `vision_tower`, `language_model` and `names`, and gives `feature_table`, where
    what the tower returns goes through `checkpoint_name(..., TOWER_FEATURES)`. Inputs are one dict of arrays, these and
    those of the tower, which its `feature_table` describes:

        input_ids       (B, T) int32; a visual token's id is `config.image_token_id`.
        attention_mask  (B, T) bool, True on real tokens; padding may stand on either side.
        visual_index    (B, T, K) int32: rows of the feature table that a visual token draws on; text tokens' are
                        ignored.
        visual_weight   (B, T, K) float32, optional: their weights; 1 where it is missing.
        positions       (B, T) int32, optional: rotary positions; by default the backbone's own rule.
    """

    names: ClassVar[NameTable]
    config: Any
    compute: Compute
    language_model: Qwen2

    def __init__(self, config: BackboneConfig, **parts: Any) -> None:
        raise NotImplementedError

    @abc.abstractmethod
    def feature_table(self, inputs: Mapping[str, Array]) -> Float[Array, "rows D"] | None:
        """The features that `visual_index` counts, in the decoder's width, float32; None for a batch of texts.

        Float32, so that the gradient of a row that thousands of tokens share adds up without loss.
        """

    def embed(self, inputs: Mapping[str, Array]) -> Float[Array, "B D"]:
        """L2-normalised hidden state of each row's last real token, float32."""
        hidden = self.hidden_states(inputs)
        last = _last_token(inputs["attention_mask"])
        embeddings = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return embeddings * jax.lax.rsqrt(jnp.maximum(jnp.square(embeddings).sum(-1, keepdims=True), 1e-14))

    def hidden_states(self, inputs: Mapping[str, Array]) -> Float[Array, "B T D"]:
        """Final-norm hidden states of every token, float32; those of padding mean nothing."""
        positions = inputs.get("positions")
        if positions is None:
            positions = self.positions(inputs)
        return self.language_model(self.merge(inputs), inputs["attention_mask"].astype(bool), positions)

    def positions(self, inputs: Mapping[str, Array]) -> Int[Array, "B T"]:
        """Rotary positions: the number of real tokens before each, whichever side padding is on."""
        return count_before(inputs["attention_mask"].astype(bool))

    def merge(self, inputs: Mapping[str, Array]) -> Float[Array, "B T D"]:
        """Token embeddings, with the visual tokens' rows drawn from the feature table."""
        embeddings = self.language_model.embed_tokens(inputs["input_ids"])
        table = self.feature_table(inputs)
        if table is None:
            return embeddings
        index, weight = inputs["visual_index"], inputs.get("visual_weight")
        taps = [table[index[..., k]] for k in range(index.shape[-1])]
        if weight is not None:
            taps = [weight[..., k, None] * tap for k, tap in enumerate(taps)]
        visual = functools.reduce(jnp.add, taps)
        return jnp.where(self.is_visual(inputs)[..., None], visual.astype(embeddings.dtype), embeddings)

    def is_visual(self, inputs: Mapping[str, Array]) -> Bool[Array, "B T"]:
        """Which tokens are placeholders of features."""
        return inputs["input_ids"] == self.config.image_token_id


def count_before(counted: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """One less than how many are counted up to and with each, but at least 0: positions that only these advance."""
    return jnp.maximum(jnp.cumsum(counted, axis=-1) - 1, 0)


def normalize_pixels(
    pixels: UInt8[Array, "*B 3"] | Float[Array, "*B 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*B 3"]:
    """Pixel values as a tower wants them, float32: uint8 is normalised per colour, float is taken as it is."""
    if pixels.dtype != jnp.uint8:
        return pixels.astype(jnp.float32)
    return (pixels.astype(jnp.float32) * np.float32(1 / 255) - jnp.float32(mean)) / jnp.float32(std)


def _last_token(attention_mask: Bool[Array, "B T"]) -> Int[Array, " B"]:
    """Index of each row's last real token, whichever side padding is on."""
    length = attention_mask.shape[-1]
    return length - 1 - jnp.argmax(attention_mask[:, ::-1].astype(jnp.int32), axis=-1)
