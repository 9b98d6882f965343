"""Mining a data directory whose right answers are known, and training on what comes out."""

import json
from pathlib import Path

import numpy as np
import pytest

from ega_jax.cli import BAD_INPUT, DONE, STOPPED, run
from ega_jax.data.mmeb import read_eval, read_train
from ega_jax.data.records import Side, SubsetInfo, TrainRecord
from ega_jax.mining.choose import MiningSettings
from ega_jax.mining.mine import mine_subset
from ega_jax.mining.write import MinedDirectory
from ega_jax.models.weights import save_weights
from ega_jax.training.setup import make_setup, starting_parameters, write_model_directory

from ..colours import COLOURS, write_colours
from ..micro import config

pytestmark = pytest.mark.usefixtures("one_device")

MICRO = str(Path(__file__).parent.parent / "micro.py")


class Rows(list):
    info = SubsetInfo("Numbers")


def encode(sides):
    """A text of two numbers is a direction."""
    vectors = np.array([[float(number) for number in side.text.split()[-2:]] for side in sides], np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mined(rows, **settings):
    found, account = mine_subset(Rows(rows), encode, MiningSettings(**{"relative_margin": -1, **settings}))
    return [[side.text for side in row.negatives] for row in found], account


def record(query, positive, *more, negatives=()):
    sides = [Side(text) for text in more]
    return TrainRecord(Side(query), Side(positive), tuple(Side(text) for text in negatives), tuple(sides))


def test_negatives_are_others_positives_the_nearest_first():
    rows = [record("q 1 0", "p 1 0.1"), record("q 0 1", "p 0.2 1"), record("q 1 1", "p 1 0.9")]
    found, account = mined(rows, negatives=2)
    assert found == [["p 1 0.9", "p 0.2 1"], ["p 1 0.9", "p 1 0.1"], ["p 0.2 1", "p 1 0.1"]]
    assert (account.rows, account.pool, account.mined, account.short) == (3, 3, 6, 0)


def test_what_is_right_is_never_a_negative():
    rows = [
        record("q 1 0", "a 1 0.1", "b 1 0.2"),
        record("q 1 0", "c 1 0.3"),  # the same query: its positive is right for the first row too
        record("q 0 1", "A  1 0.1"),  # says what the first row's positive says
        record("r 1 0.4", "d 1 0.4", negatives=["c 1 0.3"]),
    ]
    found, account = mined(rows, negatives=2)
    assert found[0] == found[1] == ["d 1 0.4"]
    assert found[2] == ["d 1 0.4", "c 1 0.3"]
    assert found[3] == ["c 1 0.3", "b 1 0.2"]  # its own negative counts
    assert account.short == 2


def test_targets_that_say_the_same_are_one_negative():
    rows = [record("q 1 0", "p 0 1"), record("r 0 1", "Twice 1 0.1"), record("s 0 1", "twice  1 0.1")]
    assert mined(rows, negatives=3)[0][0] == ["Twice 1 0.1"]


def test_the_rules_hold():
    rows = [record("q 1 0", "p 1 0.3"), record("r 0 1", "near 1 0.01"), record("s 0 1", "far 1 2")]
    found, account = mined(rows, relative_margin=0.05)
    assert found[0] == ["far 1 2"]
    assert found[1] == []  # both others are nearer to it than what is right
    assert (account.false_negatives, account.short) == (3, 3)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Data, and a model with random weights."""
    home = tmp_path_factory.mktemp("mining")
    write_colours(home / "data", rows=24)
    write_model_directory(config, home / "model", lambda: COLOURS)
    setup = make_setup(config, home / "model")
    save_weights(setup.functional.merge(starting_parameters(config, setup)), home / "model")
    return home


def mine(home, output, *more):
    rules = ["--settings.relative-margin", "-1", "--settings.negatives", "2"]
    return run(["mine", str(home / "model"), str(home / "data"), str(home / output), *rules, *more])


def test_mined_data_is_read_and_trained_on(home, capsys):
    assert mine(home, "mined") == DONE
    assert "24 rows" in capsys.readouterr().out
    for name in ("Name", "Find", "Match"):
        before, after = (read_train(home / directory, name) for directory in ("data", "mined"))
        assert len(after) == len(before)
        for row in range(len(before)):
            old, new = before[row], after[row]
            assert (new.query.text, new.positive.text) == (old.query.text, old.positive.text)
            assert [x.read_bytes() for x in new.query.images] == [x.read_bytes() for x in old.query.images]
            assert [side.text for side in new.negatives[: len(old.negatives)]] == [s.text for s in old.negatives]
            assert len(new.negatives) == 2
            assert new.positive.text not in [side.text for side in new.negatives if not side.images]
        tests = [read_eval(home / directory, name) for directory in ("data", "mined")]
        assert [side.text for side in tests[1].queries] == [side.text for side in tests[0].queries]
        assert [list(c) for c in tests[1].candidates] == [list(c) for c in tests[0].candidates]
    page = (home / "mined" / "mined.html").read_text()
    assert page.count("negative · ") > 12
    assert "data:image/" in page
    train = ["train", MICRO, "--run-dir", str(home / "run"), "--data.directory", str(home / "mined"), "--steps", "2"]
    assert run([*train, "--data.negatives-per-query", "2", "--validation.every", "None"]) == DONE


def test_an_interrupted_mining_goes_on_and_gives_the_same(home, monkeypatch, capsys):
    write = MinedDirectory.write

    def interrupted(self, subset, *arguments):
        write(self, subset, *arguments)
        if subset == "Find":
            raise KeyboardInterrupt

    monkeypatch.setattr(MinedDirectory, "write", interrupted)
    names = ["--subsets", "Find", "Name"]
    assert mine(home, "resumed", *names) == STOPPED
    monkeypatch.setattr(MinedDirectory, "write", write)
    assert mine(home, "resumed", *names) == DONE
    assert "Find: is there already" in capsys.readouterr().err
    assert mine(home, "whole", *names) == DONE
    for name in ("Find", "Name"):
        part = f"{name}/original-00000-of-00001.parquet"
        assert (home / "resumed" / part).read_bytes() == (home / "whole" / part).read_bytes()
        assert json.loads((home / "whole" / name / "mined.json").read_text())["rows"] == 24


def test_other_rules_do_not_go_into_the_same_directory(home, capsys):
    assert mine(home, "once", "--subsets", "Name") == DONE
    assert mine(home, "once", "--subsets", "Name", "--settings.seed", "4") == BAD_INPUT
    assert "was mined otherwise" in capsys.readouterr().err
