"""The published names inside of a NaViT tower, wherever it stands."""

from __future__ import annotations

NAVIT_FUSED = {"attn.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj")}
"""Queries, keys and values are one tensor in the files and three here, which split over devices head by head."""


def navit_layer_prefixes(published: str) -> tuple[tuple[str, str], ...]:
    """Prefixes (`NameTable.prefixes`) of the layers of `vision_tower`, which `published` numbers by "{}"."""
    layers = "vision_tower.encoder.layers"
    return (
        (f"{layers}.layer_norm1", f"{published}.norm1"),
        (f"{layers}.layer_norm2", f"{published}.norm2"),
        (f"{layers}.self_attn.out_proj", f"{published}.attn.proj"),
        (f"{layers}.self_attn", f"{published}.attn"),
        (f"{layers}.mlp", f"{published}.mlp"),
    )
