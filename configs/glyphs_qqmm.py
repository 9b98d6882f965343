"""The embedded example with the second backbone: a tiny QQMM learns to read Unicode's characters, on two CPU cores.

ega-jax train configs/glyphs_qqmm.py --run-dir runs/glyphs_qqmm
"""

from ega_jax.training.config import (
    CheckpointSettings,
    DataSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    TrainConfig,
    ValidationSettings,
)

config = TrainConfig(
    steps=1500,
    log_every=20,
    model=ModelSettings(preset="qqmm_tiny", vocab_size=1024, dtype="float32", remat="none"),
    data=DataSettings(
        directory="glyphs",
        batch_size=64,
        sub_batch_size=16,
        weights={"GlyphToName": 3, "NameToGlyph": 4, "FaceToFace": 2, "Restyle": 2, "BoxDrawing": 2},
        # QQMM's prompt has a system turn: some 230 tokens of this tokenizer before the first word of the user.
        token_buckets=(256, 320, 512),
        image_buckets=(0, 36, 64, 144),  # 144 patches: a sheet of three by three characters
    ),
    loss=LossSettings(temperature=0.05, symmetric=True),
    optimizer=OptimizerSettings(learning_rate=1e-3, warmup=0.1, final=0.05),
    checkpoint=CheckpointSettings(every=300),
    validation=ValidationSettings(every=750),
)
