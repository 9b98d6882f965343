"""Reads the golden cases of QQMM: inputs and outputs of the QQMM-embed repository (torch, float32)."""

import functools

import jax
import numpy as np
from safetensors.numpy import load_file

import ega_jax.models
from ega_jax.models.patch_layout import block_index, patch_positions

from . import golden

QQMM = golden.DATA / "qqmm"


@functools.cache
def model():
    """The golden weights; tests must not write to it."""
    with jax.default_matmul_precision("highest"):
        return ega_jax.models.load(QQMM / "model")


@functools.cache
def case(name):
    return load_file(QQMM / f"{name}.safetensors")


def inputs(tensors, prefix="in."):
    """The model's inputs from the reference's."""
    ids, mask = tensors[f"{prefix}input_ids"], tensors[f"{prefix}attention_mask"]
    batch = {"input_ids": ids.astype(np.int32), "attention_mask": mask.astype(bool)}
    if f"{prefix}grid_sizes" not in tensors:
        return batch
    grids = [tuple(map(int, grid)) for grid in tensors[f"{prefix}grid_sizes"]]
    index = np.zeros((*ids.shape, 1), np.int32)
    visual = ids == model().config.image_token_id
    index[visual, 0] = block_index(in_blocks(grids), lead=1, first=0)  # pictures follow each other row by row
    return batch | {"visual_index": index} | pack(pixels(tensors, prefix), grids)


def pixels(tensors, prefix="in."):
    """(n, 14 * 14 * 3): the reference's patches, row by row, flattened as (row, column, colour)."""
    name = "pixel_values" if f"{prefix}pixel_values" in tensors else "pixel_values_u8"
    values = tensors[prefix + name]
    return values.transpose(0, 2, 3, 1).reshape(len(values), -1)


def pack(patches, grids):
    """The tower's inputs from patches row by row: block by block, odd grids filled up with padding."""
    order, segments, positions = slots(grids)
    filled = np.concatenate([patches, np.zeros_like(patches[:1])])
    return {"patches": filled[order], "patch_segments": segments, "patch_positions": positions}


def slots(grids):
    """Of each slot: the patch (row by row over all pictures; -1 for none), the segment, and the place."""
    order, segments, positions, first = [], [], [], 0
    for number, (rows, columns) in enumerate(grids, start=1):
        places = patch_positions(in_blocks([(rows, columns)])[0], 2)
        there = (places < (rows, columns)).all(-1)
        order.append(np.where(there, first + places[:, 0] * columns + places[:, 1], -1))
        segments.append(np.where(there, number, 0))
        positions.append(places)
        first += rows * columns
    return np.concatenate(order), np.concatenate(segments).astype(np.int32), np.concatenate(positions)


def in_blocks(grids):
    return [(-(-rows // 2), -(-columns // 2)) for rows, columns in grids]


def row_by_row(features, grids):
    """Features of slots in the reference's order."""
    order, _, _ = slots(grids)
    result = np.empty((order.max() + 1, features.shape[-1]), np.float32)
    result[order[order >= 0]] = np.asarray(features)[order >= 0]
    return result
