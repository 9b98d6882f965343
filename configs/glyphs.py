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
    steps=600,
    log_every=10,
    model=ModelSettings(preset="llava_onevision_tiny", vocab_size=1024, dtype="float32", remat="none"),
    data=DataSettings(
        directory="glyphs",
        batch_size=128,
        sub_batch_size=64,
        token_buckets=(32, 64, 96, 128, 256),
        tile_buckets=(0, 2, 5, 10),
    ),
    loss=LossSettings(temperature=0.05),
    optimizer=OptimizerSettings(learning_rate=1e-3, warmup=0.05, final=0.05),
    checkpoint=CheckpointSettings(every=100),
    validation=ValidationSettings(every=200),
)
