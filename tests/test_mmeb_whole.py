"""MMEB as it is downloaded goes all the way: verified, prepared, trained on, stopped and gone on with."""

import json
from pathlib import Path

import pytest

from ega_jax.cli import DONE, FAILED, STOPPED, run
from ega_jax.data.mmeb import SUBSETS, find_subsets, read_train
from ega_jax.training import train as training

from .kill_and_resume import TIMINGS
from .synthetic_mmeb import write_mmeb

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]

MICRO = str(Path(__file__).parent / "micro.py")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_mmeb(tmp_path_factory.mktemp("mmeb") / "MMEB-train")


@pytest.fixture(scope="module")
def prepared(directory):
    output = directory.parent / "prepared"
    arguments = ["data", "prepare", str(directory), str(output), "--workers", "1", "--on-bad-record", "skip"]
    assert run([*arguments, "--rows-per-shard", "6"]) == DONE
    return output


def train(directory, run_dir, *more):
    options = ["--data.directory", str(directory), "--run-dir", str(run_dir), "--data.on-bad-record", "skip"]
    # One shape, so that little is compiled.
    shapes = ["--data.token-buckets", "128", "--data.image-buckets", "5", "--data.negatives-per-query", "0"]
    often = ["--steps", "6", "--checkpoint.every", "2", "--data.max-rows-per-subset", "8"]
    return run(["train", MICRO, *options, *shapes, *often, *more])


def metrics(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def test_what_is_wrong_with_the_download_is_told_and_what_is_prepared_is_sound(directory, prepared, capsys):
    page = str(directory.parent / "page.html")
    assert run(["data", "verify", str(directory), "--config", MICRO, "--splits", "train", "--output", page]) == FAILED
    told = capsys.readouterr().out
    for subset, reason in (
        ("SUN397", "field 'pos_text': neither text nor image"),
        ("DocVQA", "field 'qry': one image needs one"),
        ("NIGHTS", "field 'pos_image_path': no such image file"),
    ):
        assert f"{directory}/{subset}/original-00000-of-00001.parquet, row 2, {reason}" in told
    assert "200 rows, 3 bad" in told
    assert run(["data", "verify", str(prepared), "--config", MICRO, "--output", page]) == DONE
    assert "0 bad" in capsys.readouterr().out


def test_all_20_subsets_come_through_with_their_traps_mended(directory, prepared):
    names = [info.name for info in find_subsets(prepared, "train")]
    assert names == [name for name, info in SUBSETS.items() if info.distribution == "in"]
    for home in (directory, prepared):
        rows = {name: read_train(home, name, on_bad_record="skip") for name in names}
        assert {name: len(subset) for name, subset in rows.items() if len(subset) != 10} == dict.fromkeys(
            ("SUN397", "DocVQA", "NIGHTS"), 9
        )
        assert rows["WebQA"][0].query.text == "Find me an image: cat 0\n"
        assert rows["WebQA"][0].positive.text == "<|image_1|>\nThe image. 0\n"
        assert rows["ImageNet-1K"][3].query.text == "<|image_1|>\nWhat is in  picture 3?\n"
        assert [side.text for side in rows["OK-VQA"][1].negatives] == ["tram"]
        assert [side.text for side in rows["ChartQA"][1].negatives] == ["tram", "it's"]
        assert len(rows["VisDial"][1].negatives[0].images) == 1
        assert rows["CIRR"][0].negatives == rows["N24News"][0].negatives == ()


def test_training_stops_and_goes_on_as_if_it_had_not(directory, prepared, monkeypatch):
    """One run reads what was downloaded; the other what was prepared, is stopped, and has other threads then."""
    assert train(directory, directory.parent / "whole") == DONE
    stopped = directory.parent / "stopped"

    def after_three_steps(self):
        written = stopped / "metrics.jsonl"
        return "SIGTERM" if written.is_file() and len(metrics(stopped)) == 3 else None

    with monkeypatch.context() as patch:
        patch.setattr(training.Interrupt, "requested", after_three_steps)
        assert train(prepared, stopped, "--data.threads", "1") == STOPPED
    assert metrics(stopped)[-1]["step"] == 3
    assert train(prepared, stopped, "--data.threads", "3", "--data.prefetch", "2") == DONE
    whole, resumed = metrics(directory.parent / "whole"), metrics(stopped)
    assert [line["step"] for line in whole] == [1, 2, 3, 4, 5, 6]
    assert resumed == whole
    (index,) = (prepared / "index").iterdir()
    assert len(list(index.glob("train-*.safetensors"))) == 20
