"""What docs/training.md says that a picture costs is what the layouts count, at the sizes of the published models."""

import re
from pathlib import Path

import pytest

from ega_jax.models.backbones import backbone_of
from ega_jax.models.presets import config_of

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
SECTION = PAGE.split("\n## Resolution\n")[1].split("\n## ")[0]
PRESETS = {"LLaVA-OneVision": "llava_onevision_7b", "QQMM": "qqmm_7b", "Qwen2-VL": "qwen2_vl_7b"}


def tokens(preset, sizes, *, max_tiles=None, base_only=False, max_pixels=None):
    config = config_of(preset).with_resolution(max_tiles=max_tiles, base_only=base_only, max_pixels=max_pixels)
    return backbone_of(config.model_type).layout(config.image).measure(sizes).tokens


def rows():
    """Every cell's preset, picture, settings and number of tokens."""
    for table in re.findall(r"(?:^\|.*\n)+", SECTION, re.MULTILINE):
        head, _, *lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
        sizes = [tuple(map(int, cell.split(" × "))) for cell in head[1:]]
        for name, *counts in lines:
            preset = PRESETS[head[0] or name.split(",")[0]]
            settings = {key: True if value == "True" else int(value) for key, value in re.findall(r"(\w+)=(\w+)", name)}
            for size, count in zip(sizes, counts, strict=True):
                yield pytest.param(preset, size, settings, int(count.replace(",", "")), id=f"{name} {size}")


@pytest.mark.parametrize(("preset", "size", "settings", "count"), list(rows()))
def test_the_page_counts_as_the_code(preset, size, settings, count):
    assert tokens(preset, [size], **settings) == count


def test_several_pictures_have_their_base_tiles_alone():
    assert tokens("llava_onevision_7b", [(1080, 1920)] * 3) == 3 * 730


def test_no_common_picture_has_more_than_the_most_that_is_said():
    sizes = [(height, width) for height in range(300, 2400, 64) for width in range(300, 2400, 64)]
    most = max(tokens("llava_onevision_7b", [size]) for size in sizes)
    assert most == tokens("llava_onevision_7b", [(2028, 748)]) < 9216  # the largest of `data.token_buckets`
