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
    # QQMM's own system turn would be most of each row, and says nothing to a model that knows no language yet.
    model=ModelSettings(preset="qqmm_tiny", vocab_size=1024, dtype="float32", remat="none", system_prompt=""),
    data=DataSettings(
        directory="glyphs",
        batch_size=64,
        sub_batch_size=16,
        weights={
            "GlyphToName": 3,
            "NameToGlyph": 4,
            "FaceToFace": 2,
            "Restyle": 2,
            "SheetByName": 1.5,
            "SheetByPlace": 1.5,
            "Diacritic": 1.5,
            "BoxDrawing": 2,
            "Kind": 0.5,
            "Braille": 0.5,
        },
        token_buckets=(32, 64, 128, 256),
        image_buckets=(0, 36, 64, 144),  # 144 patches: a sheet of three by three characters
    ),
    loss=LossSettings(temperature=0.05, symmetric=True),
    optimizer=OptimizerSettings(learning_rate=1e-3, warmup=0.1, final=0.05),
    checkpoint=CheckpointSettings(every=300),
    validation=ValidationSettings(every=750),
)
