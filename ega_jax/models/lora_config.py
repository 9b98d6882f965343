"""The size and the place of low-rank adapters, as data."""

from __future__ import annotations

import dataclasses
import math

from ega_jax.errors import BadInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which linear maps get an adapter, and of what size (LoRA, arXiv 2106.09685)."""

    rank: int = 8
    """Inner dimension of the product A B that an adapter adds to its kernel; 0 is no adapters."""
    alpha: float = 16.0
    """The product is scaled by alpha / rank."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732)."""
    paths: tuple[str, ...] = (r"language_model/.*_proj",)
    """Regular expressions, matched from the start of a linear map's path, such as
    "language_model/decoder/layers/self_attn/q_proj"; each must match one."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise BadInputError(f"lora rank {self.rank}: must not be negative; 0 is no adapters")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise BadInputError(f"lora alpha must be positive, got {self.alpha}")

    @property
    def scale(self) -> float:
        """The factor on A B."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)
