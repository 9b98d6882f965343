"""Reading a checkpoint of 1 GB takes the memory of the model and little more."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .weights_memory import write

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def checkpoint(tmp_path):
    yield tmp_path / "model"
    shutil.rmtree(tmp_path / "model")  # pytest keeps the last few directories


def test_reading_holds_less_than_one_more_tensor_of_a_layer(checkpoint):
    sources = write(checkpoint, np.float32)
    total = sum(source.nbytes for source in sources)
    assert 0.7e9 < total < 1.1e9
    largest = max(source.nbytes for source in sources if "layers" in source.name)
    assert largest == 4 * 2048 * 8192
    finished = subprocess.run(
        [sys.executable, "-m", "tests.models.weights_memory", str(checkpoint)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    measured = json.loads(finished.stdout)
    assert measured["model"] == total
    name = "language_model.model.layers.0.mlp.down_proj.weight"
    expected = [2047 + len(name) + 8191 / 1024, 7 + len(name) + 5 / 1024]
    assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(measured["sample"], expected, strict=True))
    assert measured["peak"] > total  # the measure sees the model itself
    assert measured["peak"] - total <= 1.3 * largest, f"{(measured['peak'] - total) / largest:.2f} of a tensor"
