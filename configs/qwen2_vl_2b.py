"""Qwen2-VL-2B on MMEB's training set, in the recipe that published embedders share (global batch 1,024 in homogeneous
sub-batches of 64, temperature 0.02). Pictures have at most 1,280 tokens, 5,120 patches.

Give the directories of Qwen2-VL-2B-Instruct (or the 7B, with more devices) and of the data:

    ega-jax train configs/qwen2_vl_2b.py --run-dir runs/qwen2_vl_2b --mesh.fsdp 8 \
        --model.weights Qwen2-VL-2B-Instruct --data.directory MMEB-train
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
    model=ModelSettings(
        preset="qwen2_vl_2b",
        dtype="bfloat16",
        remat="full",
        max_pixels=1280 * 28 * 28,
        frozen=("vision_tower/",),
    ),
    data=DataSettings(
        directory="MMEB-train",
        batch_size=1024,
        sub_batch_size=64,
        chunk_size=4,
        verify_images="header",  # a million pictures: decoding them all first would take hours
        token_buckets=(128, 256, 512, 768, 1024, 1536, 2048, 3072),
        image_buckets=(0, 512, 768, 1024, 1536, 2048, 3072, 4096, 5120, 6144, 8192, 10240),
    ),
    loss=LossSettings(temperature=0.02),
    optimizer=OptimizerSettings(learning_rate=2e-5, warmup=0.05),
    mesh=MeshSettings(data=-1, fsdp=8),
    checkpoint=CheckpointSettings(every=200),
)
