"""Every bad record is told of by its place, and the pages show what is there and need nothing else."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest

from ega_jax import cli
from ega_jax.data.prepared.write import prepare
from ega_jax.inspection.verify import suggest_buckets

from ..colours import write_colours


@pytest.fixture
def directory(tmp_path):
    return write_colours(tmp_path / "data", rows=12)


def change(directory, subset, split, row, **cells):
    file = directory / subset / f"{split}.jsonl"
    lines = file.read_text().splitlines()
    lines[row] = json.dumps(json.loads(lines[row]) | cells)
    file.write_text("\n".join(lines) + "\n")
    return json.loads(lines[row])


def run(directory, *arguments, command="verify"):
    output = directory.parent / "page.html"
    code = cli.run(["data", command, str(directory), *arguments, "--output", str(output)])
    return code, output.read_text()


def needs_nothing_else(page):
    assert not re.search(r'<script|<link|src="(?!data:)|href=|url\(', page)
    assert page.count("<section>") == page.count("</section>") > 0


def test_sound_data_exit_with_0_and_a_picture_of_its_sizes(directory, capsys):
    code, page = run(directory, "--splits", "train")
    assert code == 0
    out = capsys.readouterr().out
    assert "36 rows, 0 bad" in out
    assert re.search(r"suggested data\.token_buckets: \d+", out)
    assert "measured with LLaVA-OneVision 7B's image layout" in out, "sizes are another model's unless it is named"
    assert page.count("<svg") == 6, "tokens and tiles of three subsets"
    assert "Bad records" not in page
    needs_nothing_else(page)


def test_every_bad_record_is_told_of(directory, capsys):
    change(directory, "Name", "original", 3, qry="", qry_image_path="")
    change(directory, "Name", "original", 7, qry_image_path="../secret.png")
    repeated = change(directory, "Name", "original", 9)
    change(directory, "Name", "original", 10, **repeated)
    change(directory, "Find", "test", 1, tgt_text=[], tgt_img_path=[])
    cut = directory / change(directory, "Match", "original", 5)["qry_image_path"]
    cut.write_bytes(cut.read_bytes()[:-20])
    (directory / "Match" / "validation.jsonl").write_text('{"qry_text": 5}\n')
    code, page = run(directory)
    assert code == 1
    out = capsys.readouterr().out
    for told in (
        rf"{directory}/Name/original\.jsonl, row 3, field 'qry': neither text nor image",
        rf"{directory}/Name/original\.jsonl, row 7, field 'qry_image_path': path with '\.\.'",
        rf"{directory}/Find/test\.jsonl, row 1, field 'tgt_text': no candidates",
        rf"{directory}/Match/original\.jsonl, row 5, field 'qry_image_path': corrupt",
        r"subset 'Match' .*all 1 rows are bad, the first: .*validation\.jsonl, row 0, field '",
        r"Name/original\.jsonl, row 10: repeats .*Name/original\.jsonl, row 9 \(1 duplicates in all\)",
    ):
        assert re.search(told, out), told
    assert page.count("neither text nor image") == 1
    needs_nothing_else(page)


def test_a_prepared_directory_is_decoded_again(directory, tmp_path, capsys):
    prepare(directory, tmp_path / "prepared")
    assert run(tmp_path / "prepared")[0] == 0
    shard = next((tmp_path / "prepared").glob("mmeb-train-Find*"))
    content = bytearray(shard.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 0xFF
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "prepared", broken)
    (broken / shard.name).write_bytes(content)
    capsys.readouterr()
    assert run(broken)[0] == 1
    told = re.findall(rf"{shard.name}, row (\d+), field 'targets': cannot be read", capsys.readouterr().out)
    assert told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such directory"),
        (["data", "--subsets", "Nmae"], "no subset 'Nmae'"),
        (["data", "--splits", "diverse_instruction"], "no rows of diverse_instruction"),
    ],
)
def test_what_cannot_be_looked_at_exits_with_2(directory, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(directory.parent)
    assert cli.run(["data", "verify", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "test"])
def test_records_are_shown_with_their_pictures_and_wrong_answers(directory, tmp_path, split):
    change(directory, "Name", "original", 0, neg_text=["<b>not this</b>", "nor this"], neg_image_path=None)
    for home in (directory, tmp_path / "prepared"):
        code, page = run(home, "--split", split, "--rows", "12", command="show") if home.is_dir() else (None, None)
        if code is None:
            prepare(directory, home)
            code, page = run(home, "--split", split, "--rows", "12", command="show")
        assert code == 0
        needs_nothing_else(page)
        assert page.count('class="record"') == (36 if split == "train" else 9)
        assert page.count("<img src=") > 30
        assert "<b>" not in page
        if split == "train":
            assert "&lt;b&gt;not this&lt;/b&gt;" in page
            assert page.count("side negative") >= 2 + 4
        assert "Which colour is it?↵" in page


def padded(sizes, ladder):
    return sum(next(step for step in ladder if step >= size) for size in sizes)


def test_suggested_buckets_waste_the_least():
    random = np.random.default_rng(0)
    sizes = random.choice([3, 7, 8, 20, 21, 33, 50], 200)
    values = sorted(set(sizes.tolist()))
    for count in (1, 2, 3, 7, 9):
        ladder = suggest_buckets(sizes, count)
        assert len(ladder) <= count
        assert ladder[-1] == 50
        others = [(*chosen, 50) for k in range(min(count, 7)) for chosen in itertools.combinations(values[:-1], k)]
        assert padded(sizes, ladder) == min(padded(sizes, other) for other in others)
    large = suggest_buckets(random.integers(1, 9000, 2000))
    assert len(large) == 6
    assert all(size % 8 == 0 for size in large)
    assert suggest_buckets(np.zeros(0, int)) == ()
