"""`eval --suite mmeb` and `embed` as two processes: what one process finds, written by the first alone.

python -m tests.test_several_processes DIR INDEX --processes.coordinator ...    is one of the two
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from ega_jax.cli import DONE, run
from ega_jax.evaluation import Results
from ega_jax.models import build, load_config, save
from ega_jax.training.setup import write_model_directory
from ega_jax.vectors.directory import VectorDirectory

from .micro import config
from .processes import finish, start
from .synthetic_mmeb_eval import write_mmeb_eval

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]

DATASETS = ("VOC2007", "MSCOCO_i2t")


def evaluate(home, output, *flags):
    """Part of the suite: nine queries make the last batch a short one."""
    arguments = ["eval", str(home / "model"), "--suite", "mmeb", "--partial", "--data", str(home / "mmeb")]
    arguments += ["--subsets", *DATASETS, "--output", str(output), "--batch-size", "16", "--save-every", "40"]
    return run([*arguments, *flags])


def embed(home, output, *flags):
    arguments = ["embed", str(home / "model"), str(home / "corpus.jsonl"), str(output)]
    return run([*arguments, "--batch-size", "16", "--shard-size", "5", *flags])  # the programs of `evaluate`


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("processes")
    write_mmeb_eval(home / "mmeb", 9, 5, only=DATASETS)
    write_model_directory(config, home / "model", lambda: [*DATASETS, "Look at it: question answer"])
    save(build(load_config(home / "model"), rngs=nnx.Rngs(0)), home / "model")
    pictures = sorted((home / "mmeb" / "images" / "MSCOCO_i2t").iterdir())
    rows = [{"id": str(place), "text": f"thing {place}"} for place in range(7)]
    rows += [{"id": path.name, "image": str(path.relative_to(home))} for path in pictures[:6]]
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def test_two_processes_find_what_one_finds_and_the_first_alone_writes(home):
    def command(index):
        return [sys.executable, "-m", "tests.test_several_processes", str(home), str(index)]

    log = home / "two"
    started = start(command, log, processes=2, devices=1, compiled=home / "compiled")
    assert evaluate(home, home / "alone") == DONE
    assert embed(home, home / "vectors_alone") == DONE
    codes, logs = finish(log, started)
    assert codes == [0, 0], logs
    assert not (home / "of_process_1").exists()
    assert not (home / "vectors_of_process_1").exists()

    two, alone = (Results.load(home / name / "results.json") for name in ("of_process_0", "alone"))
    assert two.environment["processes"] == "2"
    assert [subset.name for subset in two.subsets] == sorted(DATASETS, key=[s.name for s in alone.subsets].index)
    assert two.subsets == alone.subsets
    for found, expected in zip(two.details, alone.details, strict=True):
        np.testing.assert_allclose(found.positive_similarity, expected.positive_similarity, atol=3e-6)
        np.testing.assert_allclose(found.hardest_negative_similarity, expected.hardest_negative_similarity, atol=3e-6)
    assert sorted(path.name for path in (home / "of_process_0" / "mmeb_scores").iterdir()) == sorted(
        f"{name}_score.json" for name in DATASETS
    )
    assert list((home / "of_process_0" / "vectors").rglob("*.safetensors"))

    found, expected = (VectorDirectory.open(home / name) for name in ("vectors_of_process_0", "vectors_alone"))
    assert list(found.items()) == list(expected.items())
    np.testing.assert_allclose(found.vectors(), expected.vectors(), atol=3e-6)


if __name__ == "__main__":
    place, index, *flags = sys.argv[1:]
    assert evaluate(Path(place), Path(place) / f"of_process_{index}", *flags) == DONE
    # They are joined already.
    assert embed(Path(place), Path(place) / f"vectors_of_process_{index}", "--processes.join", "never") == DONE
