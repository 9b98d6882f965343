"""The published names of QQMM: those of the QQMM-embed repository's own classes."""

from __future__ import annotations

from ega_jax.models.name_table import NameTable
from ega_jax.models.navit_names import NAVIT_FUSED, navit_layer_prefixes
from ega_jax.models.qwen2_names import qwen2_prefixes
from ega_jax.models.tensor_layouts import PATCH_KERNEL

MOST_PROJECTION_LAYERS = 16
"""Names are known for as many; what is published has two."""

NAMES = NameTable(
    prefixes=(
        ("vision_tower.patch_embedding", "vision_model.patch_embed"),
        *navit_layer_prefixes("vision_model.blocks.{}"),
        ("projector.image_embedding", "vision_abstractor.image_embedding"),
        # The activations between count too: linear maps have even numbers.
        *(
            (f"projector.linear_{number + 1}", f"vision_abstractor.projection.{2 * number}")
            for number in range(MOST_PROJECTION_LAYERS)
        ),
        *qwen2_prefixes("language_model.model"),
    ),
    passed_over=r"language_model\.lm_head\.weight",
    layouts={"vision_tower.patch_embedding.kernel": PATCH_KERNEL},
    fused=NAVIT_FUSED,
)
