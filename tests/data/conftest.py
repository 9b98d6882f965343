"""A data directory for rows to be written into."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def data(tmp_path):
    """An empty data directory with four images and one truncated one."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (12, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
    whole = (tmp_path / "images" / "0.png").read_bytes()
    (tmp_path / "images" / "cut.png").write_bytes(whole[: len(whole) - 60])
    return tmp_path


@pytest.fixture(params=["parquet", "jsonl"])
def suffix(request):
    return request.param
