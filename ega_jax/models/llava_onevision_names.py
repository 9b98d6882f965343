"""The published names of LLaVA-OneVision: those of transformers 4.45, in which its checkpoints are stored."""

from __future__ import annotations

from ega_jax.models.name_table import NameTable
from ega_jax.models.qwen2_names import qwen2_prefixes
from ega_jax.models.tensor_layouts import PATCH_KERNEL

_TOWER = "vision_tower.vision_model"

NAMES = NameTable(
    prefixes=(
        ("image_newline", "image_newline"),
        ("vision_tower.patch_embedding", "vision_tower.vision_model.embeddings.patch_embedding"),
        ("vision_tower.position_embedding", "vision_tower.vision_model.embeddings.position_embedding.weight"),
        ("vision_tower.encoder.layers", "vision_tower.vision_model.encoder.layers.{}"),
        ("projector", "multi_modal_projector"),
        *qwen2_prefixes("language_model.model"),
    ),
    # The head, and the tower's last norm.
    passed_over=r"language_model\.lm_head\.weight|vision_tower\.vision_model\.post_layernorm\.(weight|bias)",
    spellings=(
        (r"^model\.", ""),  # in memory since 4.52: all is in an inner model, and the head outside of the decoder
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^language_model\.(?!model\.|lm_head\.)", "language_model.model."),
        (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),  # 5.x, on disk too
    ),
    in_memory=(
        (r"^language_model\.model\.", "model.language_model."),
        (r"^vision_tower\.vision_model\.", "model.vision_tower."),
        (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    ),
    layouts={"vision_tower.patch_embedding.kernel": PATCH_KERNEL},
    neutral={  # the tower's last norm as transformers begins it
        f"{_TOWER}.post_layernorm.weight": (1.0, f"{_TOWER}.encoder.layers.0.layer_norm1.weight"),
        f"{_TOWER}.post_layernorm.bias": (0.0, f"{_TOWER}.encoder.layers.0.layer_norm1.bias"),
    },
)
