"""LLaVA-OneVision-7B on MMEB's training set, in the recipe that published embedders share (global batch 1,024 in
homogeneous sub-batches of 64, temperature 0.02, base crops only).

Give the directories of the published checkpoint and of the data:

    ega-jax train configs/llava_onevision_7b.py --run-dir runs/7b --mesh.fsdp 16 \
        --model.weights llava-onevision-qwen2-7b-ov-hf --data.directory MMEB-train
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
        preset="llava_onevision_7b",
        dtype="bfloat16",
        remat="full",
        base_only=True,  # 730 tokens a picture; the whole picture in tiles takes up to 8,700
        frozen=("vision_tower/",),
    ),
    data=DataSettings(
        directory="MMEB-train",
        batch_size=1024,
        sub_batch_size=64,
        chunk_size=16,  # each chunk gathers the weights anew: as large as fits
        verify_images="header",  # a million pictures: decoding them all first would take hours
        token_buckets=(128, 256, 512, 1024, 2048),
        image_buckets=(0, 1, 2),
    ),
    loss=LossSettings(temperature=0.02),
    optimizer=OptimizerSettings(learning_rate=2e-5, warmup=0.05),
    mesh=MeshSettings(data=-1, fsdp=8),
    checkpoint=CheckpointSettings(every=200),
)
