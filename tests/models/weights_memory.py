"""Writes a synthetic checkpoint piece by piece, or reads one and prints what that took: run by test_weights_memory.py.

Memory is the resident set, pages of mapped files and all.
"""

import gc
import json
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import ega_jax.models
from ega_jax.models import AnyresConfig, LlavaOnevisionConfig
from ega_jax.models.name_table import slots_of
from ega_jax.models.qwen2 import Qwen2Config
from ega_jax.models.safetensors_files import Source, write_tensors
from ega_jax.models.siglip import SiglipConfig

LARGE = LlavaOnevisionConfig(
    vision=SiglipConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
    ),
    text=Qwen2Config(
        vocab_size=4096,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=3,
        num_attention_heads=16,
        num_key_value_heads=4,
    ),
    image=AnyresConfig(tile_size=28, grid_size=2, pinpoints=((28, 28),)),
    image_token_id=4094,
    video_token_id=4095,
)


def abstract_model():
    return nnx.eval_shape(lambda: ega_jax.models.build(LARGE, rngs=nnx.Rngs(0)))


def rows_of(name, shape, dtype):
    """Rows that differ from one another and from other tensors', as pieces."""
    columns = np.arange(shape[-1], dtype=np.float32) if len(shape) > 1 else np.zeros((), np.float32)
    for row in range(shape[0]):
        yield np.broadcast_to(row + len(name) + columns / 1024, (1, *shape[1:])).astype(dtype)


def write(directory, dtype):
    directory.mkdir()
    sources = [
        Source(slot.name, np.dtype(dtype), slot.shape, lambda slot=slot: rows_of(slot.name, slot.shape, dtype))
        for slot in slots_of(abstract_model())
    ]
    write_tensors(directory, sources, max_shard_bytes=300_000_000)
    return sources


def resident_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def read(directory):
    model = abstract_model()
    # What reading needs once and for all: the library's own memory, and a first compilation.
    jax.block_until_ready(jax.jit(lambda x: jax.lax.dynamic_update_slice(x, x[:1], (1,)))(np.zeros(4, np.float32)))
    gc.collect()
    before, peak, done = resident_bytes(), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    ega_jax.models.load_weights(model, directory)
    done.set()
    watcher.join()
    leaves = jax.tree.leaves(nnx.state(model))
    kernel = model.language_model.decoder.layers.mlp.down_proj.kernel[...]
    print(
        json.dumps(
            {
                "peak": peak[0] - before,
                "model": sum(leaf.nbytes for leaf in leaves),
                "sample": [float(kernel[2, 8191, 2047]), float(kernel[0, 5, 7])],
            }
        )
    )


if __name__ == "__main__":
    read(Path(sys.argv[1]))
