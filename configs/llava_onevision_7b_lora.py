"""LLaVA-OneVision-7B on MMEB's training set by LoRA: low-rank adapters on the language model, all else frozen.

The recipe of `configs/llava_onevision_7b.py` with rank, alpha and learning rate as published embedders of this backbone
have them (UniME-v2: rank 16, alpha 64, 1e-4). Give the directories of the published checkpoint and of the data:

    ega-jax train configs/llava_onevision_7b_lora.py --run-dir runs/7b-lora \
        --model.weights llava-onevision-qwen2-7b-ov-hf --data.directory MMEB-train
"""

from ega_jax.models import LoraConfig
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
        # 161 MB of adapters and 323 MB of moments beside 15 GB of frozen bfloat16, instead of 120 GB.
        lora=LoraConfig(rank=16, alpha=64.0, paths=(r"language_model/.*_proj",)),
    ),
    data=DataSettings(
        directory="MMEB-train",
        batch_size=1024,
        sub_batch_size=64,
        chunk_size=16,
        verify_images="header",  # a million pictures: decoding them all first would take hours
        token_buckets=(128, 256, 512, 1024, 2048),
        image_buckets=(0, 1, 2),
    ),
    loss=LossSettings(temperature=0.02),
    optimizer=OptimizerSettings(learning_rate=1e-4, warmup=0.1),
    # The frozen weights, 15 GB, stay whole: split over "fsdp", each chunk would gather them three times. On devices of
    # 16 or 32 GiB give --mesh.fsdp 4 --data.chunk-size 4.
    mesh=MeshSettings(data=-1, fsdp=1),
    checkpoint=CheckpointSettings(every=200),
)
