"""Tiles bit for bit, and token tables against sizes and a dense reference that torch computes."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ega_jax.errors import BadInputError
from ega_jax.models import anyres
from ega_jax.models.presets import PRESETS

from . import golden

REAL = PRESETS["llava_onevision_7b"].image
ALONE = {"anyres": 1, "multi": 2}
"""How many pictures there are in the row: the second rule is tested with a row of the same picture twice."""


def golden_tiles(name, rule, config):
    count = ALONE[rule]
    tiles = anyres.tiles([golden.image(name)] * count, config).transpose(0, 3, 1, 2)
    if count == 2:
        np.testing.assert_array_equal(tiles[0], tiles[1])
    return tiles[: len(tiles) // count]


@pytest.mark.parametrize("rule", ALONE)
@pytest.mark.parametrize("name", golden.image_names())
def test_tiles_of_48_pixels_bit_for_bit(name, rule):
    expected = golden.case("preprocess")[f"u8.{rule}.{name}"]
    np.testing.assert_array_equal(golden_tiles(name, rule, golden.config().image), expected)


@pytest.mark.parametrize("rule", ALONE)
@pytest.mark.parametrize("name", golden.image_names())
def test_tiles_of_384_pixels_bit_for_bit(name, rule):
    expected = json.loads((golden.LLAVA / "preprocess_384.json").read_text())[f"{rule}.{name}"]
    tiles = golden_tiles(name, rule, REAL)
    assert list(tiles.shape) == expected["shape"]
    assert hashlib.sha256(np.ascontiguousarray(tiles).tobytes()).hexdigest() == expected["sha256_uint8_crops_NCHW"]


@pytest.mark.parametrize("name", ["gray_L_70x52", "rgb_odd_101x83", "rgb_tiny_9x13"])
def test_normalised_on_the_device(name):
    tiles = anyres.tiles([golden.image(name)], golden.config().image)
    expected = golden.case("preprocess")[f"pixel_values.anyres.{name}"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(golden.model().normalize(tiles), expected, rtol=0, atol=3e-7)


def test_normalised_with_the_configs_own_mean():
    image = dataclasses.replace(golden.config().image, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    colour = np.full((1, 48, 48, 3), 51, np.uint8)  # 51 / 255 = 0.2
    normalised = golden.model_with(image=image).normalize(colour)
    np.testing.assert_allclose(normalised[0, 0, 0], [0.2, 0.0, -0.8], atol=1e-6)


def test_transparency_is_not_just_dropped():
    dropped = golden.case("preprocess")["u8_alpha_dropped.anyres.rgba_60x90"]
    assert (golden_tiles("rgba_60x90", "anyres", golden.config().image) != dropped).any()


@pytest.mark.parametrize(("key", "config"), [("real_384_grid27", REAL), ("tiny_48_grid3", golden.config().image)])
def test_plans_of_many_sizes(key, config):
    for expected in json.loads((golden.LLAVA / "anyres_sizes.json").read_text())[key]:
        size = tuple(expected["image_hw"])
        plan = anyres.plan_image(size, config)
        top, bottom, left, right = plan.crop
        got = {
            "image_hw": list(size),
            "best_resolution_hw": list(plan.resolution),
            "num_crops_incl_base": plan.tiles,
            "unpadded_hw": [bottom - top, right - left],
            "pooled_hw": list(plan.pooled),
            "num_tokens_incl_newlines": plan.tokens,
        }
        assert got == {name: expected[name] for name in got}


def dense_tokens(features, newline, size, config):
    """The tokens of one picture by operations on the features themselves, as transformers does; torch, float64.

    Args:
      features: (N, P, D), the base tile's first.
    """
    grid, (height, width) = config.grid_size, size
    rows, columns = (side // config.tile_size for side in anyres.plan_image(size, config).resolution)
    picture = features[1:].reshape(rows, columns, grid, grid, -1).permute(4, 0, 2, 1, 3)
    picture = picture.reshape(-1, rows * grid, columns * grid)
    if width / height > columns / rows:
        kept = int(round(height * (columns * grid / width), 7))
        cut = (rows * grid - kept) // 2
        picture = picture[:, cut : rows * grid - cut]
    else:
        kept = int(round(width * (rows * grid / height), 7))
        cut = (columns * grid - kept) // 2
        picture = picture[:, :, cut : columns * grid - cut]
    channels, tall, wide = picture.shape
    ratio = (tall * wide / (config.max_patches * grid**2)) ** 0.5
    if ratio > 1.1:
        smaller = [int(tall // ratio), int(wide // ratio)]
        picture = torch.nn.functional.interpolate(picture[None], smaller, mode="bilinear")[0]
    ends = newline[:, None, None].expand(channels, picture.shape[1], 1)
    picture = torch.cat([picture, ends], dim=2)
    return torch.cat([features[0], picture.flatten(1).T])


@pytest.mark.parametrize(
    ("size", "config", "taps"),
    [
        ((190, 230), golden.config().image, 4),
        ((281, 269), golden.config().image, 4),
        ((83, 101), golden.config().image, 1),
        ((1, 300), golden.config().image, 1),
        ((2512, 748), REAL, 1),
        ((1500, 1400), REAL, 4),
        ((333, 500), REAL, 1),
    ],
)
def test_tables_equal_dense_operations(size, config, taps):
    plan, sources = anyres.plan_image(size, config), anyres.token_sources([size], config)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(plan.tiles, config.features_per_tile, 3, generator=generator, dtype=torch.float64)
    newline = torch.randn(3, generator=generator, dtype=torch.float64)
    expected = dense_tokens(features, newline, size, config).numpy()

    table = np.concatenate([newline.numpy()[None], features.reshape(-1, 3).numpy()])
    got = (table[sources.index] * sources.weight[..., None]).sum(1)
    assert sources.index.shape == (plan.tokens, taps)
    assert (sources.index.dtype, sources.weight.dtype) == (np.int32, np.float32)
    np.testing.assert_allclose(got, expected, atol=1e-6)


sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


@settings(max_examples=60, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=3))
def test_tables_are_averages_within_the_rows_tiles(row):
    config = golden.config().image
    sources, plans = anyres.token_sources(row, config), anyres.plan_row(row, config)
    assert sources.num_tiles == sum(plan.tiles for plan in plans)
    assert sources.tokens_per_image == tuple(plan.tokens for plan in plans)
    assert len(sources.index) == sum(sources.tokens_per_image)
    assert sources.index.min() == 0
    assert sources.index.max() <= sources.num_tiles * config.features_per_tile
    assert (sources.weight >= 0).all()
    np.testing.assert_allclose(sources.weight.sum(1), 1, atol=1e-6)
    assert (sources.index[sources.weight == 0] == 0).all()


@settings(max_examples=20, deadline=None)
@given(sizes, st.integers(0, 2**32 - 1))
def test_tiles_are_as_many_as_planned(size, seed):
    size = (1 + size[0] // 8, 1 + size[1] // 8)
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))
    config = golden.config().image
    assert anyres.tiles([picture], config).shape == (anyres.plan_image(size, config).tiles, 48, 48, 3)


def test_row_without_pictures():
    config = golden.config().image
    sources = anyres.token_sources([], config)
    assert sources.index.shape == (0, 1)
    assert sources.num_tiles == 0
    assert anyres.tiles([], config).shape == (0, 48, 48, 3)


def test_shifted_tables_read_the_same_features_from_the_batchs_table():
    config, size = golden.config().image, (190, 230)
    sources, rng = anyres.token_sources([size], config), np.random.default_rng(0)
    own = rng.normal(size=(1 + sources.num_tiles * config.features_per_tile, 3))
    before = rng.normal(size=(5 * config.features_per_tile, 3))
    batch = np.concatenate([own[:1], before, own[1:]])
    shifted = anyres.shift_tiles(sources.index, 5, config.features_per_tile)
    used = sources.weight > 0
    np.testing.assert_array_equal(batch[shifted][used], own[sources.index][used])


def test_base_only_is_one_tile_of_the_whole_picture_and_a_newline():
    config = dataclasses.replace(golden.config().image, base_only=True)
    picture = golden.image("rgb_wide_157x41")
    tiles = anyres.tiles([picture], config)
    np.testing.assert_array_equal(tiles, anyres.tiles([picture], golden.config().image)[:1])
    sources = anyres.token_sources([(41, 157)], config)
    np.testing.assert_array_equal(sources.index[:, 0], [*range(1, 10), 0])
    assert sources.num_tiles == 1


def test_max_tiles_restricts_the_pinpoints():
    config = dataclasses.replace(golden.config().image, max_tiles=4)
    full = {anyres.plan_image(size, golden.config().image).tiles for size in [(300, 300), (60, 400)]}
    assert max(full) > 5
    assert anyres.plan_image((300, 300), config).resolution == (96, 96)
    assert anyres.plan_image((60, 400), config).resolution == (48, 192)
    with pytest.raises(BadInputError, match="max_tiles=0"):
        dataclasses.replace(golden.config().image, max_tiles=0)


def test_pinpoints_are_multiples_of_the_tile():
    with pytest.raises(BadInputError, match=r"\(48, 50\) is not a multiple of the tile size 48"):
        dataclasses.replace(golden.config().image, pinpoints=((48, 48), (48, 50)))


def test_host_side_does_not_import_jax():
    code = "import sys, ega_jax.models.anyres; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
