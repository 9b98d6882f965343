"""Contrastive losses: pure functions of arrays that need jax alone."""

from ega_jax.losses.ega import DEFAULTS, Defaults, ega_loss, info_nce_loss
from ega_jax.losses.sharded import sharded_ega_loss
from ega_jax.losses.stats import LossStats

__all__ = ["DEFAULTS", "Defaults", "LossStats", "ega_loss", "info_nce_loss", "sharded_ega_loss"]
