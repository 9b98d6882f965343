"""Reads the golden cases: inputs and outputs of transformers 5.23 (torch, float32) with tiny random
weights.
"""

import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file

import ega_jax.models
from ega_jax.models.anyres import plan_image, shift_tiles, token_sources

DATA = Path(__file__).parent.parent / "data_golden"
LLAVA = DATA / "llava_onevision"

FEATURES = {"rtol": 0, "atol": 2e-5}
PASSED_OVER = ("lm_head.weight", "post_layernorm.weight", "post_layernorm.bias")
EMBEDDINGS = {"rtol": 0, "atol": 2e-6}


@functools.cache
def config():
    return ega_jax.models.LlavaOnevisionConfig.from_hf(json.loads((LLAVA / "model" / "config.json").read_text()))


@functools.cache
def model():
    """The golden weights; tests must not write to it."""
    with jax.default_matmul_precision("highest"):
        return ega_jax.models.load(LLAVA / "model")


def model_with(**changes):
    """The same weights under a changed config."""
    changed = nnx.clone(model())
    changed.config = dataclasses.replace(config(), **changes)
    return changed


@functools.cache
def case(name):
    return load_file(LLAVA / f"{name}.safetensors")


def image(name):
    return Image.open(DATA / "images" / f"{name}.png")


def image_names():
    return sorted(path.stem for path in (DATA / "images").glob("*.png"))


def inputs(tensors, prefix="in."):
    """The model's inputs from the reference's: pixel values without padded crops, and the token tables."""
    ids, mask = tensors[f"{prefix}input_ids"], tensors[f"{prefix}attention_mask"]
    batch = {"input_ids": ids.astype(np.int32), "attention_mask": mask.astype(bool)}
    if f"{prefix}pixel_values" not in tensors:
        return batch
    anyres = config().image
    pixels = tensors[f"{prefix}pixel_values"].transpose(0, 1, 3, 4, 2)
    sizes = [tuple(map(int, size)) for size in tensors[f"{prefix}image_sizes"]]
    per_row = _images_per_row(ids, [int(n) for n in tensors[f"{prefix}batch_num_images"]])
    tiles, rows, first_image, first_tile = [], [], 0, 0
    for count in per_row:
        row_sizes = sizes[first_image : first_image + count]
        sources = token_sources(row_sizes, anyres)
        rows.append((shift_tiles(sources.index, first_tile, anyres.features_per_tile), sources.weight))
        for k, size in enumerate(row_sizes):
            tiles.append(pixels[first_image + k, : plan_image(size, anyres, alone=count == 1).tiles])
        first_image += count
        first_tile += sources.num_tiles
    batch["tiles"] = np.concatenate(tiles)
    batch["visual_index"], batch["visual_weight"] = scatter_rows(ids, rows, (config().image_token_id,))
    return batch


def scatter_rows(ids, rows, placeholders):
    """Places each row's tables at its visual tokens."""
    taps = max(index.shape[1] for index, _ in rows)
    index, weight = np.zeros((*ids.shape, taps), np.int32), np.zeros((*ids.shape, taps), np.float32)
    for b, (row_index, row_weight) in enumerate(rows):
        (places,) = np.nonzero(np.isin(ids[b], placeholders))
        assert len(places) == len(row_index), "the reference has another number of visual tokens"
        index[b, places, : row_index.shape[1]] = row_index
        weight[b, places, : row_weight.shape[1]] = row_weight
    return index, weight


def _images_per_row(ids, batch_num_images):
    """Rows without images are left out of `batch_num_images`."""
    counts = iter(batch_num_images)
    return [next(counts) if (row == config().image_token_id).any() else 0 for row in ids]


def where_real(array, tensors):
    """The positions that are not padding: the reference's padding is garbage."""
    return np.asarray(array)[tensors["in.attention_mask"].astype(bool)]


def published(graphdef, state):
    """A state (of weights or of gradients) as tensors under their published names."""
    with tempfile.TemporaryDirectory() as directory:
        ega_jax.models.save_weights(nnx.merge(graphdef, state), directory)
        return load_file(Path(directory) / "model.safetensors")


def randomize(reference, seed=1):
    """Fills a torch model so that its every parameter, norms and biases too, matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or "ln_q" in name:
                parameter.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def assert_gradients_close(got, expected, relative=1e-4):
    """Compares gradients tensor by tensor, relative to each one's norm.

    The tower's key biases shift all logits of a query alike, so their gradient is zero in theory and noise in fact:
    they are compared with nothing.
    """
    expected = {k: v for k, v in expected.items() if not k.endswith(PASSED_OVER)}
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        if name.startswith("vision_tower") and name.endswith("k_proj.bias"):
            np.testing.assert_allclose(got[name], 0, atol=1e-6, err_msg=name)
        else:
            error = np.linalg.norm(got[name] - gradient) / np.linalg.norm(gradient)
            assert error < relative, f"{name}: relative error {error}"
