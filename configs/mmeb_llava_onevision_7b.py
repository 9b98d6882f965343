"""EGA's run on MMEB with LLaVA-OneVision-7B, as far as it is known. docs/mmeb.md walks from the download to the table.

    ega-jax train configs/mmeb_llava_onevision_7b.py --run-dir runs/mmeb_7b

Reported (arXiv 2506.02020 and papers that cite it): temperature 0.02, query to target only, at most 50,000 rows of each
of MMEB's 20 subsets, a global batch of 1,024, LoRA. Every other value is a choice, marked with where it comes from.
"""

from pathlib import Path

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
    steps=2000,  # choice: VLM2Vec and UniME-V2 on the same data at a batch of 1,024 and 512
    model=ModelSettings(
        preset="llava_onevision_7b",
        weights=Path("models/llava_onevision_7b"),  # what `ega-jax convert from-hf` wrote
        base_only=True,  # choice: one crop of 384 pixels; UniME reaches 70.7 with one of 336
        # choice: UniME-V2's rank and alpha, for the same backbone; the tower and the projector stay as published
        lora=LoraConfig(rank=16, alpha=64.0, paths=(r"language_model/.*_proj",)),
    ),
    data=DataSettings(
        directory="prepared/mmeb_train",  # what `ega-jax data prepare` wrote
        max_rows_per_subset=50_000,  # reported; here a random choice, where published code takes the first rows
        batch_size=1024,  # reported
        sub_batch_size=64,  # choice: VLM2Vec-V2's best of 0, 32, 64, 128, 1024
        mixing_exponent=1.0,  # choice: by size, as a plain shuffle of all rows would draw
        negatives_per_query=0,  # choice: published runs on this data read the negatives and do not use them
        chunk_size=16,  # memory alone: the gradient is the whole batch's
        token_buckets=(128, 256, 512, 1024, 2048),
        image_buckets=(0, 1, 2),
    ),
    loss=LossSettings(temperature=0.02),  # reported; alpha, beta and combine are choices, see docs/loss.md
    optimizer=OptimizerSettings(learning_rate=1e-4, warmup=0.1),  # choice: UniME-V2's
    # The frozen weights, 15 GB, stay whole: split over "fsdp", each chunk would gather them three times. On devices of
    # 16 or 32 GiB give --mesh.fsdp 4 --data.chunk-size 4.
    mesh=MeshSettings(data=-1, fsdp=1),
    checkpoint=CheckpointSettings(every=200),
)
