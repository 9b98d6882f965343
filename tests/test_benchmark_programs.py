"""What benchmarks compare does the same in both frameworks, at a size that says nothing of speed."""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .processes import cheap_environment

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module


@pytest.fixture(scope="module")
def directory(benchmarks, tmp_path_factory):
    """Weights, adapters and the inputs of steps."""
    worker, directory = benchmarks("train_worker"), tmp_path_factory.mktemp("inputs")
    worker.save_all(argparse.Namespace(model="tiny", tile_size=None, directory=directory, sizes=["6x2x24", "6x6x24"]))
    return directory


@pytest.mark.parametrize("training", ["full", "lora"])
def test_the_train_step_and_torch_with_gradcache_learn_the_same(benchmarks, directory, training):
    worker = benchmarks("train_worker")
    arguments = argparse.Namespace(
        model="tiny", tile_size=None, directory=directory, training=training, remat="dots", sizes=[]
    )
    losses = {}
    for name, program in worker.PROGRAMS.items():
        run = program(arguments).step(worker.Size(6, 2, 24)).run
        losses[name] = [run() for _ in range(4)]
    assert losses["torch"][0] - losses["torch"][-1] > 0.1  # or they would agree by not moving
    assert benchmarks("train").check_same(*losses.values()) < 1e-3


def test_chunks_hold_the_same_rows_as_the_whole_batch(benchmarks, directory):
    worker = benchmarks("train_worker")
    chunks, whole = (worker.read_inputs(worker.Size(6, rows, 24), directory) for rows in (2, 6))
    for some, all_ in zip(chunks, whole, strict=True):
        assert some["input_ids"].shape[:2] == (3, 2)
        for name in ("input_ids", "attention_mask", "tiles", "visual_weight"):
            np.testing.assert_array_equal(some[name].reshape(all_[name].shape), all_[name])
        tiles = len(some["tiles"][0])
        np.testing.assert_array_equal(some["visual_index"].max((1, 2, 3)), [some["visual_index"].max()] * 3)
        assert some["visual_index"].max() < all_["visual_index"].max() == 3 * tiles * 16


def test_a_size_whose_chunks_are_unequal_is_refused(benchmarks):
    with pytest.raises(ValueError, match="4 must divide 6"):
        benchmarks("train_worker").Size.parse("6x4x64")


def test_losses_that_part_are_an_error(benchmarks):
    check_same = benchmarks("train").check_same
    assert check_same([1.0, 0.5], [1.0, 0.5005]) == pytest.approx(5e-4)
    with pytest.raises(AssertionError):
        check_same([1.0, 0.5], [1.0003, 0.5])
    with pytest.raises(AssertionError):
        check_same([1.0, 0.5], [1.0, 0.502])


@pytest.mark.parametrize("task", ["encode", "train step", "lora step"])
def test_the_model_and_transformers_compute_the_same(benchmarks, tmp_path, task):
    worker = benchmarks("model_worker")
    arguments = argparse.Namespace(model="tiny", task=task, rows=3, platform="cpu", only=None, directory=tmp_path)
    worker.save_all(arguments)
    inputs = [dict(np.load(tmp_path / f"{name}.npz")) for name in ("pictures", "texts")]
    ours, theirs = (make(arguments, *inputs) for make in (worker.jax_program, worker.torch_program))
    np.testing.assert_allclose(ours.run(), theirs.run(), rtol=0, atol=1e-4)
    tokens, flops = worker.work_of(task, "tiny", 3)
    assert tokens == sum(arrays["input_ids"].size for arrays in inputs[: 1 if task == "encode" else 2])
    assert flops > 2 * tokens * 1e4


def test_a_section_runs_in_processes_of_its_own(tmp_path):
    results, page = tmp_path / "train.json", tmp_path / "train.md"
    command = [sys.executable, ROOT / "benchmarks/train.py", "gradcache", "--model=tiny", "--tile-size=32"]
    command += ["--training=lora", "--sizes=4x2x24", "--rounds=1", f"--results={results}", f"--page={page}"]
    subprocess.run(command, check=True, env=cheap_environment(), timeout=500)
    (row,) = json.loads(results.read_text())["gradcache"]["rows"]
    assert row["share"] == row["temporaries_mib"]["chunks"] / row["temporaries_mib"]["whole"]
    assert 0 < row["share"] < 1
    assert row["difference"] < 1e-4
    assert min(*row["first_gib"].values(), *row["later_gib"].values()) > 0.1
    assert f"| LoRA | 4 | 2 | {row['tokens']} |" in page.read_text()
