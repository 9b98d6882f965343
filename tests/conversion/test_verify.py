"""A model against a reference that torch made, by the documented program."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from ega_jax.cli import BAD_INPUT, DONE, FAILED, run
from ega_jax.conversion.from_hf import from_hf
from ega_jax.conversion.verify import read_reference
from ega_jax.errors import BadInputError

from .published import write_published
from .reference import processor_without_torchvision

pytestmark = pytest.mark.usefixtures("one_device")

PROGRAM = Path(__file__).parent.parent.parent / "docs" / "make_reference.py"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("verify")
    write_published(directory / "published")
    from_hf(directory / "published", directory / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.AutoProcessor, "from_pretrained", processor_without_torchvision)
        runpy.run_path(str(PROGRAM))["main"]([str(directory / "published"), str(directory / "reference.safetensors")])
    return directory


def verify(model, reference, *options):
    return run(["convert", "verify", str(model), str(reference), "--batch-size", "16", *options])


def test_the_same_weights_agree(directory, capsys):
    assert verify(directory / "model", directory / "reference.safetensors") == DONE
    printed = capsys.readouterr().out
    assert "all 8 items agree within 0.0001" in printed
    assert "DIFFERS" not in printed


def test_other_weights_do_not(directory, tmp_path, capsys):
    from_hf(directory / "published", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = dict(load_file(path))
    tensors["multi_modal_projector.linear_1.bias"] += 0.1  # of pictures alone
    save_file(tensors, path, metadata={"format": "pt"})
    assert verify(tmp_path / "model", directory / "reference.safetensors") == FAILED
    told = capsys.readouterr()
    assert told.out.count("DIFFERS") == 5
    assert told.out.count("equal") == 3
    assert "5 of 8 items differ by more than 0.0001" in told.err


def test_references_that_are_none(directory, tmp_path, capsys):
    path = tmp_path / "reference.safetensors"
    vectors = np.eye(2, 16, dtype=np.float32)

    def write(tensors, items, version=1):
        described = {"version": version, "items": items}
        save_file(tensors, path, metadata={"ega_jax.reference": json.dumps(described)})

    item = {"text": "a", "images": []}
    write({"embeddings": vectors}, [item, item])
    assert read_reference(path).items[1]["text"] == "a"
    for tensors, items, version in (
        ({"embeddings": vectors}, [item], 1),
        ({"embeddings": 0 * vectors}, [item, item], 1),
        ({"embeddings": vectors}, [item, {"text": "b", "images": [0]}], 1),
        ({"embeddings": vectors}, [item, item], 2),
        ({"other": vectors}, [item, item], 1),
    ):
        write(tensors, items, version)
        with pytest.raises(BadInputError, match=r"reference\.safetensors: "):
            read_reference(path)
    save_file({"embeddings": vectors}, path)
    with pytest.raises(BadInputError, match="not a reference file"):
        read_reference(path)
    with pytest.raises(BadInputError, match="not a reference file"):
        read_reference(tmp_path / "none")
    write({"embeddings": np.eye(2, 8, dtype=np.float32)}, [item, item])
    assert verify(directory / "model", path) == BAD_INPUT
    assert "gives 16 dimensions, the reference has 8" in capsys.readouterr().err
