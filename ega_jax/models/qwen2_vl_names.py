"""The published names of Qwen2-VL: those of transformers 4.45, in which its checkpoints are stored."""

from __future__ import annotations

from ega_jax.models.name_table import NameTable
from ega_jax.models.navit_names import NAVIT_FUSED, navit_layer_prefixes
from ega_jax.models.qwen2_names import qwen2_prefixes
from ega_jax.models.tensor_layouts import PatchKernel

FRAMES = 2
"""Frames that a patch of the tower spans (its `temporal_patch_size`)."""

NAMES = NameTable(
    prefixes=(
        ("vision_tower.patch_embedding", "visual.patch_embed.proj"),
        *navit_layer_prefixes("visual.blocks.{}"),
        ("merger.norm", "visual.merger.ln_q"),
        # The activation between counts too.
        ("merger.linear_1", "visual.merger.mlp.0"),
        ("merger.linear_2", "visual.merger.mlp.2"),
        *qwen2_prefixes("model"),
    ),
    passed_over=r"lm_head\.weight",
    spellings=(
        (r"^model\.visual\.", "visual."),  # in memory since 4.52
        (r"^(model\.)?language_model\.", "model."),  # the same, and the inner model stored by itself
    ),
    in_memory=((r"^model\.", "model.language_model."), (r"^visual\.", "model.visual.")),
    head="lm_head.weight",
    tied_to="model.embed_tokens.weight",
    layouts={"vision_tower.patch_embedding.kernel": PatchKernel(frames=FRAMES)},
    fused=NAVIT_FUSED,
)
