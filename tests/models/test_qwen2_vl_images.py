"""Qwen2-VL's host side against transformers' own, bit for bit."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.vision_utils import get_vision_position_ids

from ega_jax.errors import BadInputError
from ega_jax.models import qwen2_vl_images
from ega_jax.models.patch_layout import patch_positions
from ega_jax.models.qwen2_vl_images import Qwen2VlImageConfig, Qwen2VlLayout

from . import golden

SMALL = Qwen2VlImageConfig(patch_size=6, min_pixels=24 * 24, max_pixels=48 * 48)
SIDES = st.integers(1, 5000)


def reference(config):
    areas = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    return transformers.Qwen2VLImageProcessorPil(size=areas, patch_size=config.patch_size)


def assert_patches_equal(picture, config):
    theirs = reference(config)([picture], do_rescale=False, do_normalize=False, return_tensors="np")
    side = config.patch_size
    frames = theirs["pixel_values"].reshape(-1, 3, 2, side, side)
    np.testing.assert_array_equal(frames[:, :, 0], frames[:, :, 1])  # a picture is two equal frames
    expected = frames[:, :, 0].transpose(0, 2, 3, 1).reshape(len(frames), -1)
    ours = Qwen2VlLayout(config).prepare([picture])
    np.testing.assert_array_equal(ours.patches[0], expected)
    assert theirs["image_grid_thw"].tolist() == [[1, 2 * rows, 2 * columns] for rows, columns in ours.grids]


@pytest.mark.parametrize("name", golden.image_names())
@pytest.mark.parametrize("config", [SMALL, Qwen2VlImageConfig()], ids=["small", "published"])
def test_patches_equal_transformers(name, config):
    assert_patches_equal(golden.image(name), config)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (3, 500), (13, 2000), (1, 3), (29, 28)])
def test_tiny_and_long_pictures_equal_transformers(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert_patches_equal(Image.fromarray(pixels), SMALL)


@given(SIDES, SIDES, st.sampled_from([(3136, 16384 * 784), (784, 784), (12544, 200704)]))
def test_sizes_equal_transformers(height, width, areas):
    config = Qwen2VlImageConfig(min_pixels=areas[0], max_pixels=areas[1])
    try:
        expected = smart_resize(height, width, 28, *areas)
    except ValueError:
        with pytest.raises(BadInputError, match=f"{width} x {height} pixels: one side is more than 200 times"):
            qwen2_vl_images.token_grid((height, width), config)
        return
    rows, columns = qwen2_vl_images.token_grid((height, width), config)
    assert (28 * rows, 28 * columns) == expected
    assert min(rows, columns) >= 1


def test_rounding_is_half_to_even():
    config = Qwen2VlImageConfig(min_pixels=784)
    assert qwen2_vl_images.token_grid((70, 98), config) == (2, 4)


def test_patch_positions_equal_transformers():
    for grid in ((1, 1), (3, 5), (4, 2)):
        thw = torch.tensor([[1, 2 * grid[0], 2 * grid[1]]])
        np.testing.assert_array_equal(patch_positions(grid, 2), get_vision_position_ids(thw, 2))


def test_positions_of_tokens_equal_transformers():
    """Two pictures side by side, one at either end, and text between; higher than wide and wider than high."""
    grids = [(2, 3), (5, 1), (1, 1), (1, 4)]
    counts = [rows * columns for rows, columns in grids]
    is_visual = np.array(
        [1] * counts[0] + [0] * 3 + [1] * counts[1] + [0] + [1] * counts[2] + [0] * 7 + [1] * counts[3]
    )
    config = transformers.Qwen2VLConfig(vision_config={"depth": 0}, text_config={"num_hidden_layers": 0})
    with torch.device("meta"):
        model = transformers.Qwen2VLModel(config)
    expected, _ = model.get_rope_index(
        torch.tensor(is_visual)[None],
        torch.tensor(is_visual)[None],
        torch.tensor([[1, 2 * rows, 2 * columns] for rows, columns in grids]),
    )
    got = qwen2_vl_images.mrope_positions(len(is_visual), np.flatnonzero(is_visual), grids)
    np.testing.assert_array_equal(got.T, expected[:, 0])


def test_layout_foretells_what_it_takes():
    layout = Qwen2VlLayout(SMALL)
    sizes = [(40, 30), (9, 70)]
    row = layout.prepare([Image.new("RGB", (width, height)) for height, width in sizes])
    assert layout.measure(sizes) == (sum(row.tokens_per_image), row.units)
    assert row.units == 4 * sum(row.tokens_per_image)
    assert layout.measure([]) == (0, 0)


@pytest.mark.parametrize("change", [{"min_pixels": 0}, {"max_pixels": 100}, {"min_pixels": 3000}, {"patch_size": 0}])
def test_areas_that_cannot_be_are_refused(change):
    with pytest.raises(BadInputError, match="|".join(change)):
        dataclasses.replace(SMALL, **change)
