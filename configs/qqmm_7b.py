"""QQMM-7B on MMEB's training set, in the recipe that published embedders share (global batch 1,024 in homogeneous
sub-batches of 64, temperature 0.02), at its own resolution: a picture has 1,024 to 8,192 patches.

Give the directories of the published checkpoint and of the data:

    ega-jax train configs/qqmm_7b.py --run-dir runs/qqmm_7b --mesh.fsdp 16 \
        --model.weights QQMM-embed-v1 --data.directory MMEB-train
"""

from ega_jax.training.config import (
    CheckpointSettings,
    DataSettings,
    LossSettings,
    MeshSettings,
    ModelSettings,
    OptimizerSettings,
    TrainConfig,
)

config = TrainConfig(
    steps=2000,
    model=ModelSettings(preset="qqmm_7b", dtype="bfloat16", remat="full", frozen=("vision_tower/",)),
    data=DataSettings(
        directory="MMEB-train",
        batch_size=1024,
        sub_batch_size=64,
        chunk_size=2,
        verify_images="header",  # a million pictures: decoding them all first would take hours
        # The prompt's system turn takes some 90 tokens, a picture of 448 x 448 pixels 257.
        token_buckets=(128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096),
        image_buckets=(0, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 10240, 12288),
    ),
    loss=LossSettings(temperature=0.02),
    optimizer=OptimizerSettings(learning_rate=2e-5, warmup=0.05),
    mesh=MeshSettings(data=-1, fsdp=8),
    checkpoint=CheckpointSettings(every=200),
)
