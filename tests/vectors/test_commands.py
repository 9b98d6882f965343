"""`ega-jax embed` and `ega-jax search`, as a user runs them."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from ega_jax import Embedder
from ega_jax.cli import BAD_INPUT, DONE, FAILED, STOPPED, run
from ega_jax.models.weights import save_weights
from ega_jax.training.setup import make_setup, starting_parameters, write_model_directory
from ega_jax.vectors.directory import VectorDirectory

from ..colours import COLOURS, write_colours
from ..micro import config

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("cheap_compiles")]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model directory with random weights, and a corpus of texts and pictures."""
    home = tmp_path_factory.mktemp("vectors")
    write_colours(home / "data")
    write_model_directory(config, home / "model", lambda: COLOURS)
    setup = make_setup(config, home / "model")
    save_weights(setup.functional.merge(starting_parameters(config, setup)), home / "model")
    rows = [{"id": f"picture of {name}", "image": f"data/images/{name}_0.png"} for name in COLOURS]
    rows += [{"id": f"word {name}", "text": name} for name in COLOURS]
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def embed(home, output, *more):
    source = str(home / "corpus.jsonl")
    return run(["embed", str(home / "model"), source, str(home / output), "--batch-size", "8", *more])


@pytest.fixture(scope="module")
def vectors(home):
    assert embed(home, "vectors", "--shard-size", "5") == DONE
    return home / "vectors"


def test_vectors_are_the_embedders(home, vectors):
    directory = VectorDirectory.open(vectors)
    assert [item["id"] for item in directory.items()][:1] == [f"picture of {next(iter(COLOURS))}"]
    items = [{"image": home / "data" / "images" / f"{name}_0.png"} for name in COLOURS]
    items += [{"text": name} for name in COLOURS]
    expected = Embedder.from_pretrained(home / "model").encode(items)
    np.testing.assert_allclose(directory.vectors(), expected, rtol=0, atol=2e-6)
    files = sorted(vectors.glob("*.safetensors"))
    assert len(files) == -(-len(items) // 5)
    assert safetensors.numpy.load_file(files[0])["vectors"].shape == (5, 16)


def test_an_interrupted_run_goes_on_with_what_is_missing(home, vectors, monkeypatch, capsys):
    write, written = VectorDirectory.write, []

    def interrupted(self, shard, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard[0])
        write(self, shard, *arguments)

    monkeypatch.setattr(VectorDirectory, "write", interrupted)
    assert embed(home, "resumed", "--shard-size", "5") == STOPPED
    before = {path.name: path.stat().st_mtime_ns for path in (home / "resumed").glob("*.safetensors")}
    assert sorted(before) == written
    monkeypatch.setattr(VectorDirectory, "write", write)
    assert run(["search", str(home / "resumed"), "red"]) == BAD_INPUT
    assert "shards are missing" in capsys.readouterr().err
    assert embed(home, "resumed", "--shard-size", "5") == DONE
    assert "10 of" in capsys.readouterr().err
    assert all((home / "resumed" / name).stat().st_mtime_ns == time for name, time in before.items())
    np.testing.assert_array_equal(VectorDirectory.open(home / "resumed").read(), VectorDirectory.open(vectors).read())


def test_other_settings_do_not_go_into_the_same_directory(home, vectors, capsys):
    assert embed(home, "vectors", "--shard-size", "5", "--precision", "int8") == BAD_INPUT
    assert "precision 'float32', not 'int8'" in capsys.readouterr().err
    (home / "other").mkdir()
    (home / "other" / "thesis.txt").write_text("mine")
    assert embed(home, "other") == BAD_INPUT


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_search_finds_the_item_itself(home, precision, capsys):
    output = f"search-{precision}"
    assert embed(home, output, "--precision", precision, "--format", "parquet") == DONE
    table = pq.read_table(home / output / "vectors-00000-of-00001.parquet")
    assert table["id"][len(COLOURS)].as_py() == f"word {next(iter(COLOURS))}"
    capsys.readouterr()
    page = home / f"{precision}.html"
    assert run(["search", str(home / output), "green", "--top", "3", "--output", str(page)]) == DONE
    printed = capsys.readouterr().out
    first = next(line for line in printed.splitlines() if " 1 " in line)
    assert "1.0000" in first
    assert "word green" in first or precision == "binary"  # sixteen signs are shared by many
    assert page.read_text().count('class="side positive"') == 3
    picture = str(home / "data" / "images" / "green_0.png")
    assert run(["search", str(home / output), "--image", picture, "--top", "1"]) == DONE
    assert "picture of green" in capsys.readouterr().out or precision == "binary"


def test_vectors_that_are_not_finite_are_an_error_and_never_written(home, monkeypatch, capsys):
    encode = Embedder._encode

    def diverged(self, sides, *arguments):
        vectors = np.array(encode(self, sides, *arguments))
        vectors[[side.text == "red" for side in sides] + [False] * (len(vectors) - len(sides))] = np.nan
        return vectors

    monkeypatch.setattr(Embedder, "_encode", diverged)
    assert embed(home, "diverged") == FAILED
    assert "(text 'red') is not finite (1 of 16 are not)" in capsys.readouterr().err
    assert not list((home / "diverged").glob("*.safetensors"))


def test_a_full_disk_is_said_in_a_line(home, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert embed(home, "full") == FAILED
    assert "the disk is full" in capsys.readouterr().err.splitlines()[-1]
    assert not [path for path in (home / "full").iterdir() if path.suffix == ".tmp"]


def test_what_is_wrong_is_said_in_a_line(home, vectors, capsys):
    for arguments, message in (
        (["search", str(vectors)], "say what to look for"),
        (["search", str(home / "data"), "red"], "make vectors with ega-jax embed"),
        (["search", str(vectors), "red", "--top", "0"], "--top must be at least 1, got 0"),
        (["search", str(vectors), "red", "--output", str(home / "no" / "page.html")], "No such file or directory"),
        (["embed", str(home / "model"), str(home / "nothing.jsonl"), str(home / "x")], "give a .jsonl"),
    ):
        assert run(arguments) == BAD_INPUT
        assert message in capsys.readouterr().err
    shard = next(iter(vectors.glob("*.safetensors")))
    content = shard.read_bytes()
    shard.write_bytes(content[:40])
    assert run(["search", str(vectors), "red"]) == BAD_INPUT
    assert "damaged" in capsys.readouterr().err
    shard.write_bytes(content)
    items = (vectors / "items.jsonl").read_text()
    (vectors / "items.jsonl").write_text(items.replace("word red", "word wed"))
    assert run(["search", str(vectors), "red"]) == BAD_INPUT
    assert "is not what the vectors were made of" in capsys.readouterr().err
    (vectors / "items.jsonl").write_text(items)
