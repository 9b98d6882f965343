"""QQMM's host side against the repository's processor and EmbedBot: grids and pixels, bit for bit."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from ega_jax.errors import BadInputError
from ega_jax.models.qqmm_images import QqmmImageConfig, QqmmLayout, enlarged, row_grids

from . import golden, qqmm_golden

EMBEDBOT = QqmmImageConfig()
PLAIN = QqmmImageConfig(enlarge_to=None)
GRIDS = json.loads((qqmm_golden.QQMM / "grid_sizes.json").read_text())


def in_patches(grids):
    return [[2 * rows, 2 * columns] for rows, columns in grids]


def test_grids_of_single_pictures():
    for case in GRIDS["single"]:
        width, height = case["image_wh"]
        assert in_patches(row_grids([(height, width)], PLAIN)) == [case["grid_hw"]], case
        assert QqmmLayout(PLAIN).measure([(height, width)]).tokens == case["tokens"]
        if "embedbot_grid_hw" in case:
            *_, (height, width) = enlarged((height, width), EMBEDBOT)
            assert [width, height] == case["embedbot_resized_wh"], case
            assert in_patches(QqmmLayout(EMBEDBOT).grids([tuple(case["image_wh"][::-1])])) == [case["embedbot_grid_hw"]]


@pytest.mark.parametrize("case", GRIDS["multi"], ids=lambda case: f"{len(case['images_wh'])}-{case['total_patches']}")
def test_grids_of_several_pictures_share_a_limit(case):
    sizes = [(height, width) for width, height in case["images_wh"]]
    assert in_patches(row_grids(sizes, PLAIN)) == case["grids_hw"]
    assert QqmmLayout(PLAIN).measure(sizes).units == case["total_patches"]


@pytest.mark.parametrize("name", golden.image_names())
def test_pixels_equal_the_processors(name):
    tensors, picture = qqmm_golden.case("preprocess"), golden.image(name)
    row = QqmmLayout(PLAIN).prepare([picture])
    assert in_patches(row.grids) == tensors[f"grid_sizes.{name}"].tolist()
    expected = qqmm_golden.pixels(tensors | {"in.pixel_values_u8": tensors[f"u8.{name}"]})
    np.testing.assert_array_equal(qqmm_golden.row_by_row(row.patches[0], in_patches(row.grids)), expected)


@pytest.mark.parametrize("name", golden.image_names())
def test_pixels_equal_embedbots(name):
    row, case = QqmmLayout(EMBEDBOT).prepare([golden.image(name)]), GRIDS["png"][name]
    assert in_patches(row.grids) == [case["embedbot_grid"]]
    patches = qqmm_golden.row_by_row(row.patches[0], in_patches(row.grids)).astype(np.uint8)
    patches = np.ascontiguousarray(patches.reshape(-1, 14, 14, 3).transpose(0, 3, 1, 2))
    assert list(patches.shape) == case["embedbot_u8_patches_shape"]
    assert hashlib.sha256(patches).hexdigest() == case["embedbot_u8_patches_sha256"]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (1, 3000), (3000, 1), (9, 20_000)])
@pytest.mark.parametrize("config", [EMBEDBOT, PLAIN], ids=["embedbot", "plain"])
def test_thin_pictures_become_at_least_one_block_across(size, config):
    layout = QqmmLayout(config)
    ramp = np.linspace(0, 255, max(size)).reshape(-1, 1) if size[0] > size[1] else np.linspace(0, 255, max(size))
    picture = Image.fromarray(np.broadcast_to(ramp, size).astype(np.uint8))
    row, cost = layout.prepare([picture]), layout.measure([size])
    assert (sum(row.tokens_per_image), row.units) == cost
    assert 0 < cost.units <= config.max_patches
    pixels = row.patches[0].reshape(-1, 3)
    np.testing.assert_array_equal(pixels[:, 0], pixels[:, 2])  # channels are channels
    if size != (1, 1):
        assert pixels.min() < 40
        assert pixels.max() > 215


def test_shrinking_leaves_long_pictures_a_block_across():
    config = QqmmImageConfig(enlarge_to=None, longest_edge=28 * 2000)
    grids = row_grids([(28, 28 * 2000), (1512, 1512)], config)
    assert grids[0][0] == 1
    assert all(min(grid) >= 1 for grid in grids)


@pytest.mark.parametrize(
    "change", [{"merge_size": 3}, {"patch_size": 0}, {"max_patches": 3}, {"max_row_patches": 0}, {"longest_edge": 0}]
)
def test_refuses_what_makes_no_patches(change):
    with pytest.raises(BadInputError, match=next(iter(change))):
        QqmmImageConfig(**change)
