"""The embedded example: a tiny LLaVA-OneVision learns to read Unicode's characters, on two CPU cores in minutes.

ega-jax train configs/glyphs.py --run-dir runs/demo
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
    model=ModelSettings(preset="llava_onevision_tiny", vocab_size=1024, dtype="float32", remat="none"),
    data=DataSettings(
        directory="glyphs",
        batch_size=64,
        sub_batch_size=16,
        # Names and identities are what all else builds on, and the hardest to learn.
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
        image_buckets=(0, 2, 5, 10),
    ),
    loss=LossSettings(temperature=0.05, symmetric=True),
    optimizer=OptimizerSettings(learning_rate=1e-3, warmup=0.1, final=0.05),
    checkpoint=CheckpointSettings(every=300),
    validation=ValidationSettings(every=750),
)
