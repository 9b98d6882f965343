"""`prepare` writes once, finds it again, never shows half of it and never replaces what is not its own."""

import filecmp
import os
import shutil
import subprocess
import sys

import pytest

from ega_jax.data.glyphs import GlyphsConfig, grounding, prepare, questions, retrieval
from ega_jax.data.glyphs import cache as cache_module
from ega_jax.data.glyphs import catalog as catalog_module
from ega_jax.errors import BadInputError
from tests.data.glyphs.conftest import SETTINGS

TINY = {"train_rows": 5, "validation_rows": 2, "test_rows": 3, "pool_size": 5}


@pytest.fixture
def builds(monkeypatch, catalog):
    """Counts how often the dataset is built; spares drawing everything again, and builds classification alone."""
    counted = []

    def build(image_size, seed):
        counted.append(seed)
        return catalog

    monkeypatch.setattr(catalog_module, "build_catalog", build)
    for module, name in ((questions, "question_answering"), (retrieval, "retrieval"), (grounding, "grounding")):
        monkeypatch.setattr(module, name, lambda *_: [])
    return counted


def tree(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_equal_bytes_from_two_processes_that_race_for_one_directory(directory, tmp_path):
    command = f"from ega_jax.data.glyphs import prepare; prepare({str(tmp_path / 'glyphs')!r}, **{SETTINGS})"
    processes = [
        subprocess.Popen([sys.executable, "-c", command], env={**os.environ, "PYTHONHASHSEED": seed}) for seed in "12"
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["glyphs"]
    assert tree(tmp_path / "glyphs") == tree(directory)
    _, different, unreadable = filecmp.cmpfiles(directory, tmp_path / "glyphs", tree(directory), shallow=False)
    assert (different, unreadable) == ([], [])


def test_reuse(tmp_path, builds):
    place = tmp_path / "deep" / "down"
    assert prepare(place, **TINY) == place
    before = (place / "glyphs.json").stat()
    assert prepare(str(place), **TINY) == place
    assert (place / "glyphs.json").stat() == before
    assert len(builds) == 1


@pytest.mark.parametrize("damage", ["marker", "picture", "table", "cut", "metadata", "addition"])
def test_half_written_is_not_whole(directory, tmp_path, damage):
    place = shutil.copytree(directory, tmp_path / "glyphs", copy_function=os.link)
    fingerprint = cache_module._fingerprint(GlyphsConfig(**SETTINGS))
    assert cache_module._is_whole(place, fingerprint)
    table = place / "Script" / "test-00000-of-00001.parquet"
    if damage == "cut":
        content = table.read_bytes()
        table.unlink()  # not in place: the original is linked to it
        table.write_bytes(content[:-1])
    elif damage == "addition":
        (place / "Script" / "train-00000-of-00001.parquet").write_bytes(b"")
    else:
        picture = next((place / "images").rglob("*.png"))
        victims = {"marker": place / "glyphs.json", "metadata": place / "subsets.json"}
        {**victims, "picture": picture, "table": table}[damage].unlink()
    assert not cache_module._is_whole(place, fingerprint)


def test_what_is_not_whole_is_rebuilt(tmp_path, builds):
    place = prepare(tmp_path / "glyphs", **TINY)
    whole = tree(place)
    (place / "Script" / "test-00000-of-00001.parquet").unlink()
    (place / "glyphs.json").unlink()
    prepare(place, **TINY)
    assert len(builds) == 2
    assert tree(place) == whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["glyphs"]


def test_other_settings_replace(tmp_path, builds):
    place = prepare(tmp_path / "glyphs", **TINY)
    file = place / "Script" / "test-00000-of-00001.parquet"
    before = file.read_bytes()
    prepare(place, seed=1, **TINY)
    assert file.read_bytes() != before
    prepare(place, seed=1, **TINY)
    assert builds == [0, 1]


def test_empty_directory_is_filled(tmp_path, builds):
    place = prepare(tmp_path, **TINY)
    assert {"Script", "images", "glyphs.json", "subsets.json"} < {entry.name for entry in place.iterdir()}


@pytest.mark.parametrize("foreign", ["MSCOCO", "notes.txt"])
def test_files_of_others_are_never_replaced(tmp_path, builds, foreign):
    (tmp_path / foreign).mkdir()
    (tmp_path / "images").mkdir()
    with pytest.raises(BadInputError, match=f"{foreign} is not a file of Glyphs"):
        prepare(tmp_path, **TINY)
    assert {entry.name for entry in tmp_path.iterdir()} == {foreign, "images"}
    assert not builds


def test_a_file_in_the_place_is_refused(tmp_path, builds):
    (tmp_path / "glyphs").write_text("mine")
    with pytest.raises(BadInputError, match="glyphs is a file"):
        prepare(tmp_path / "glyphs", **TINY)
    assert (tmp_path / "glyphs").read_text() == "mine"


def test_interruption_leaves_nothing(tmp_path, builds, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module, "_contents", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "glyphs", **TINY)
    assert builds
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings", [{"train_rows": 0}, {"seed": -1}, {"pool_size": 1}, {"test_rows": 2.5}, {"image_size": True}]
)
def test_bad_settings_are_named(settings):
    (name,) = settings
    with pytest.raises(BadInputError, match=f"GlyphsConfig.{name} must be an integer"):
        GlyphsConfig(**settings)


def test_unknown_settings_are_an_error(tmp_path):
    with pytest.raises(TypeError, match="rows"):
        prepare(tmp_path / "glyphs", rows=3)
