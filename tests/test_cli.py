"""The command line as a user meets it: what it writes, what it prints, and how it fails."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ega_jax import Embedder
from ega_jax.cli import BAD_INPUT, DONE, run
from ega_jax.data.mmeb import read_eval
from ega_jax.errors import BadInputError
from ega_jax.evaluation import Results, evaluate

from .colours import COLOURS, write_colours

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]

MICRO = str(Path(__file__).parent / "micro.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("colours") / "data")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run of 40 steps on the subset of colour names."""
    run_dir = tmp_path_factory.mktemp("runs") / "micro"
    arguments = ["train", MICRO, "--run-dir", str(run_dir), "--data.directory", str(data), "--steps", "40"]
    assert run([*arguments, "--data.subsets", "Name", "Find", "--validation.every", "20", "--log-every", "10"]) == DONE
    return run_dir


def arguments_of(data, run_dir, *more):
    return ["train", MICRO, "--run-dir", str(run_dir), "--data.directory", str(data), "--steps", "2", *more]


def test_a_run_holds_what_the_readme_says(trained):
    assert json.loads((trained / "config.json").read_text())["steps"] == 40
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 30, 40]
    assert {"eval/score", "eval/Name", "eval/Find"} <= set(next(line for line in lines if "eval/score" in line))
    assert (trained / "checkpoints" / "40").is_dir()
    assert (trained / "model" / "tokenizer.json").is_file()
    (environment,) = map(json.loads, (trained / "environment.jsonl").read_text().splitlines())
    assert (environment["from_step"], environment["to_step"]) == (0, 40)
    assert environment["mesh"] == f"data {len(jax.devices())} x fsdp 1 x tensor 1"
    told = json.loads((trained / "amplified.json").read_text())
    assert told["last_step"] == 40
    assert {pair["subset"] for pair in told["pairs"]} <= {"Name", "Find"}
    assert all(pair["amplification"] > 0 for pair in told["pairs"])


def test_eval_writes_results_and_a_report(trained, capsys):
    assert run(["eval", str(trained)]) == DONE
    printed = capsys.readouterr().out
    results = json.loads((trained / "results.json").read_text())
    assert {subset["name"] for subset in results["subsets"]} == {"Name", "Find", "Match"}
    assert {"all", "in", "out", "classification", "retrieval", "macro"} <= set(results["means"])
    assert "Name" in printed
    assert (trained / "results_untrained.json").is_file()
    page = (trained / "report.html").read_text()
    assert "data:image/" in page
    assert run(["report", str(trained)]) == DONE


def test_eval_scores_shorter_vectors_beside_whole_ones(trained, data, tmp_path):
    assert run(["eval", str(trained), "--output", str(tmp_path), "--subsets", "Find", "--no-untrained"]) == DONE
    whole = Results.load(tmp_path / "results.json")
    kept = {path: path.read_bytes() for path in trained.glob("re*") if path.is_file()}
    assert run(["eval", str(trained), "--dimensions", "3", "--subsets", "Find", "--no-untrained"]) == DONE
    cut = Results.load(trained / "dimensions_3" / "results.json")
    assert (whole.dimensions, cut.dimensions) == (16, 3)
    # What was compared are the embedder's own vectors of this width.
    embedder = Embedder.from_pretrained(trained)
    expected = evaluate(functools.partial(embedder.encode, dimensions=3), [read_eval(data, "Find", "test")])
    found = [details.positive_similarity for details in cut.details]
    np.testing.assert_allclose(found, [details.positive_similarity for details in expected.details], atol=2e-6)
    assert np.abs(np.subtract(found, [details.positive_similarity for details in whole.details])).max() > 1e-2
    assert {path: path.read_bytes() for path in trained.glob("re*") if path.is_file()} == kept
    assert run(["eval", str(trained), "--dimensions", "17", "--subsets", "Find"]) == BAD_INPUT


def test_the_embedder_reads_the_run(trained, data):
    embedder = Embedder.from_pretrained(trained)
    paths = [data / "images" / f"{name}_0.png" for name in COLOURS]
    items = [{"text": "Which colour is it?", "image": path} for path in paths]
    items += [{"text": name} for name in COLOURS]
    vectors = embedder.encode(items)
    assert vectors.shape == (2 * len(COLOURS), 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    opened = [{"text": "Which colour is it?", "images": [Image.open(path)]} for path in paths]
    np.testing.assert_allclose(embedder.encode(opened), vectors[: len(COLOURS)], atol=2e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_training_improves_on_the_start(trained, data):
    """A query finds its colour among eight more often than before."""

    def hits(embedder):
        items = [
            {"text": "Which colour is it?\n", "image": data / "images" / f"{c}_{n}.png"}
            for c in COLOURS
            for n in range(5)
        ]
        scores = embedder.encode(items) @ embedder.encode([{"text": c} for c in COLOURS]).T
        return np.mean(scores.argmax(1) == np.repeat(np.arange(len(COLOURS)), 5))

    assert hits(Embedder.from_pretrained(trained)) > hits(Embedder.from_pretrained(trained, untrained=True)) + 0.2


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"text": "x", "imges": []}, r"item 1: unknown keys \['imges'\]"),
        ({"text": ""}, "item 1: has neither text nor image"),
        ({"image": "absent.png"}, r"absent\.png"),
    ],
)
def test_the_embedder_names_a_bad_item(trained, item, message):
    with pytest.raises(BadInputError, match=message):
        Embedder.from_pretrained(trained).encode([{"text": "fine"}, item])


# ------------------------------------------------------------------------------------------------ how it fails


def one_line(capsys):
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("ega-jax: ")
    return message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train"], "give a config file"),
        (["train", "absent.py"], "absent.py: no such config file"),
        (["train", MICRO, "--data.directory", "/nowhere/at/all"], "no such directory"),
        (["eval", "/nowhere/at/all"], "/nowhere/at/all"),
        (["report", "/nowhere/at/all"], "not a run directory"),
        (["eval", "x", "--batch-size", "0", "--data", "x", "--output", "y"], "--batch-size must be at least 1, got 0"),
        (["eval", "x", "--save-every", "-1", "--data", "x", "--output", "y"], "--save-every must be at least 1"),
        (["mine", "x", "y", "z", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["data", "prepare", "x", "y", "--workers", "0"], "--workers must be at least 1"),
        (["data", "show", MICRO, "--rows", "0"], "--rows must be at least 1"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments, message, capsys):
    assert run(arguments) == BAD_INPUT
    assert message in one_line(capsys)


def test_an_unknown_setting_is_refused_with_a_suggestion(data, tmp_path):
    command = [sys.executable, "-m", "ega_jax", *arguments_of(data, tmp_path / "run", "--optimizer.learning-rte", "1")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == BAD_INPUT
    assert "--optimizer.learning-rate" in finished.stderr + finished.stdout
    assert "Traceback" not in finished.stderr


def damage(path, kind):
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":  # its header is whole: only decoding shows it
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 3 // 4])
    else:
        path.write_text("<html>not found</html>")


@pytest.mark.parametrize("kind", ["missing", "truncated", "not an image"])
def test_a_bad_image_names_file_row_and_field_or_is_skipped(data, tmp_path, kind, capsys):
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    row = json.loads((broken / "Name" / "original.jsonl").read_text().splitlines()[7])
    damage(broken / row["qry_image_path"], kind)
    assert (
        run(arguments_of(broken, tmp_path / "run", "--data.subsets", "Name", "--validation.every", "None")) == BAD_INPUT
    )
    message = one_line(capsys)
    assert "original.jsonl, row 7, field 'qry_image_path'" in message
    assert Path(row["qry_image_path"]).name in message
    skip = ["--data.subsets", "Name", "--validation.every", "None", "--data.on-bad-record", "skip"]
    assert run(arguments_of(broken, tmp_path / "run", *skip)) == DONE
    assert "left out 1 of 40 rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_text": "", "pos_image_path": ""}, "row 0, field 'pos_text'"),
        ({"qry_image_path": "../outside.png"}, "row 0, field 'qry_image_path'"),
        ({"qry": 3}, "row 0, field 'qry'"),
    ],
)
def test_a_bad_row_names_its_field(data, tmp_path, change, message, capsys):
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    file = broken / "Name" / "original.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0] |= change
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(arguments_of(broken, tmp_path / "run", "--data.subsets", "Name")) == BAD_INPUT
    assert message in one_line(capsys)


@pytest.mark.parametrize("kind", ["missing", "truncated"])
def test_eval_skips_or_stops_too(trained, data, tmp_path, kind, capsys):
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    file = broken / "Name" / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    damage(broken / rows[2]["qry_img_path"], kind)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["eval", str(trained), "--data", str(broken), "--subsets", "Name", "--no-untrained"]
    arguments += ["--output", str(tmp_path / "out")]
    assert run(arguments) == BAD_INPUT
    assert "test.jsonl, row 2, field 'qry_img_path'" in one_line(capsys)
    assert run([*arguments, "--on-bad-record", "skip"]) == DONE
    assert json.loads((tmp_path / "out" / "results.json").read_text())["subsets"][0]["queries"] == len(rows) - 1


def test_a_damaged_checkpoint_is_told(trained, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)

    for file in (copy / "checkpoints").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-1])
    assert run(["eval", str(copy)]) == BAD_INPUT
    assert "is damaged" in one_line(capsys)


def test_a_weight_of_no_subset_is_told(data, tmp_path, capsys):
    more = ["--data.subsets", "Name", "--validation.every", "None", "--data.weights", "Nmae", "2.0"]
    assert run(arguments_of(data, tmp_path / "run", *more)) == DONE
    assert "data.weights names subsets that" in capsys.readouterr().err


def test_subset_names_are_checked(data, tmp_path, capsys):
    assert run(arguments_of(data, tmp_path / "run", "--data.subsets", "Nmae")) == BAD_INPUT
    assert "did you mean 'Name'" in one_line(capsys)
