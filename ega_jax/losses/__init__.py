"""Contrastive losses: pure functions of arrays that need jax alone."""

from ega_jax.losses.ega import DEFAULTS, Defaults, ega_loss, info_nce_loss
from ega_jax.losses.gradcache import encode_in_chunks
from ega_jax.losses.relatives import hardness_weighted_loss, llave_loss, unime_loss
from ega_jax.losses.sharded import sharded_ega_loss, sharded_siglip_loss
from ega_jax.losses.siglip import siglip_loss
from ega_jax.losses.stats import LossStats

__all__ = [
    "DEFAULTS",
    "Defaults",
    "LossStats",
    "ega_loss",
    "encode_in_chunks",
    "hardness_weighted_loss",
    "info_nce_loss",
    "llave_loss",
    "sharded_ega_loss",
    "sharded_siglip_loss",
    "siglip_loss",
    "unime_loss",
]
