"""One small Glyphs for all tests, and the catalog behind it."""

import json

import pyarrow.parquet as pq
import pytest

from ega_jax.data.glyphs import prepare
from ega_jax.data.glyphs.catalog import build_catalog

SETTINGS = {"train_rows": 160, "validation_rows": 20, "test_rows": 40, "pool_size": 60}


class Rows:
    """The rows of a prepared directory.

    Attributes:
      directory: the data directory.
      info: what `subsets.json` says.
      train, validation, test: subset to its rows, each a dictionary; subsets without the split are absent.
    """

    def __init__(self, directory):
        self.directory = directory
        self.info = json.loads((directory / "subsets.json").read_text())
        self.train, self.validation, self.test = map(self._split, ("original", "validation", "test"))

    def _split(self, split):
        files = {name: self.directory / name / f"{split}-00000-of-00001.parquet" for name in self.info}
        return {name: pq.read_table(file).to_pylist() for name, file in files.items() if file.exists()}

    def evaluation(self):
        """(subset, row) of every validation and test row."""
        return [(name, row) for split in (self.validation, self.test) for name, rows in split.items() for row in rows]

    def training(self):
        """(subset, row) of every training row."""
        return [(name, row) for name, rows in self.train.items() for row in rows]


@pytest.fixture(scope="session")
def catalog():
    return build_catalog(32, seed=0)


@pytest.fixture(scope="session")
def shown_by(catalog):
    """Path of a picture to the glyphs that look like it."""
    found = {}
    for glyph in catalog.glyphs:
        found.setdefault(glyph.path, []).append(glyph)
    return found


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "glyphs", **SETTINGS)


@pytest.fixture(scope="session")
def rows(directory):
    return Rows(directory)
