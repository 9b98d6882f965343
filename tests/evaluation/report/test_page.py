"""`write_report`: whole runs, unfinished ones and hostile texts."""

import base64
import dataclasses
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from ega_jax.data.records import IMAGE_TOKEN, EvalSubset, Side, SubsetInfo
from ega_jax.environment import record_environment
from ega_jax.errors import BadInputError
from ega_jax.evaluation import Results, evaluate
from ega_jax.evaluation.report import gallery, write_report
from ega_jax.training.step import PERCENTILES

from ..synthetic_subsets import TableEncoder, random_subset, unit_rows

HOSTILE = "<script>alert(1)</script><img src='http://evil.example/x.png'>\"&amp;"
VOID = {"meta", "img", "br", "line", "circle", "polygon", "polyline"}


class Checker(html.parser.HTMLParser):
    """Fails on tags that do not nest and keeps all attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def parse(text):
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


def write_metrics(run, steps=100):
    lines = []
    for step in range(1, steps + 1):
        entry = {"step": step, "loss": 5.0 / step, "lr": 1e-3, "grad_norm": 1.0, "examples_per_s": 300.0}
        for name in ("amplification_mean", "amplification_max", "violations", "positive_similarity"):
            entry[f"hardness/{name}"] = 1.0 + 1.0 / step
        entry["hardness/hardest_negative_similarity"] = 0.5
        for name in ("amplification", "positive_similarity", "hardest_negative_similarity"):
            entry |= {f"hardness/{name}_p{percentile}": 1.0 + percentile / 100 for percentile in PERCENTILES}
        if step % 50 == 0:
            entry |= {"eval/score": 0.5, f"eval/{HOSTILE}": 0.4}
        lines.append(json.dumps(entry))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def write_amplified(run, paths, beta=1.0):
    def item(text, *images):
        return {"text": text, "images": [str(path) for path in images]}

    loss = {"alpha": 5.0, "beta": beta, "hardness": "relative", "combine": "normalized"}
    similarities = {"positive_similarity": 0.5, "negative_similarity": 0.75, "amplification": 1.7, "subset": HOSTILE}
    pairs = [
        {
            "place": place,
            "query": item(f"{IMAGE_TOKEN} Who? {HOSTILE}", paths[0]),
            "positive": item(f"{IMAGE_TOKEN} A picture.", paths[1]) if place % 2 else item("yes"),
            "negative": item(f"{IMAGE_TOKEN} A picture.", paths[2]) if place % 2 else item(HOSTILE),
            **similarities,
        }
        for place in (1, 2, 30)
    ]
    told = {"first_step": 97, "last_step": 100, "rows": 64, "loss": loss, "pairs": pairs}
    (run / "amplified.json").write_text(json.dumps(told))


@pytest.fixture
def run(tmp_path):
    """A finished run on three subsets: image targets, text targets with hostile names and texts, and a pool of one."""
    run = tmp_path / "runs" / "my <run>"
    run.mkdir(parents=True)
    config = {"steps": 100, "model": {"preset": "tiny"}, "data": {"directory": "glyphs", "batch_size": 8}}
    (run / "config.json").write_text(
        json.dumps({**config, "loss": {"beta": 1.0, "temperature": 0.02}, "note": HOSTILE})
    )
    write_metrics(run)
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.png" for index in range(12)]
    for index, path in enumerate(paths):
        colour = rng.integers(0, 256, 3)
        Image.fromarray(np.linspace(colour, 255 - colour, 60 + index, dtype=np.uint8)[None].repeat(40, 0)).save(path)
    write_amplified(run, paths)
    pictures = tuple(Side(f"{IMAGE_TOKEN} Represent the image.", (path,)) for path in paths)
    queries = tuple(Side(f"{IMAGE_TOKEN} Which? {HOSTILE} {index}", (paths[index],)) for index in range(12))
    pools = tuple(np.roll(np.arange(12, dtype=np.int32), -index) for index in range(12))
    first = EvalSubset(SubsetInfo("Pictures", "grounding"), queries, pictures, pools)
    second, _ = random_subset(rng, HOSTILE, meta_task="vqa", distribution="out")
    third = EvalSubset(SubsetInfo("Single", "other"), (Side("q"),), (Side("t"),), (np.zeros(1, np.int32),))
    for name, seed in (("results", 1), ("results_untrained", 2)):
        rows = np.random.default_rng(seed)
        results = evaluate(
            lambda sides, rows=rows: unit_rows(rows, len(sides)), [first, second, third], suite="made up"
        )
        results.save(run, name)
    return run


def test_a_report_is_one_file_that_needs_no_other(run):
    path = write_report(run)
    assert path == run / "report.html"
    assert sorted(file.name for file in run.iterdir() if file.name.startswith((".", "report"))) == ["report.html"]
    page = parse(path.read_text())
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    for _, name, value in page.attributes:
        if name in ("src", "href", "srcset", "xlink:href", "action", "data", "poster"):
            assert value.startswith("data:image/")
        assert not name.startswith("on")
    assert "url(" not in path.read_text()
    assert "@import" not in path.read_text()


def test_a_finished_run_has_every_section(run):
    text = write_report(run).read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Scores by subset",
        "Similarities of the test queries",
        "Hardness during training",
        "What the loss amplified",
        "Training",
        "What the model retrieves",
        "What is taken for what",
        "All numbers",
        "Settings",
    ]
    assert "This report is partial" not in text
    assert text.count("<svg") == 2 + 6 + 5
    assert text.count("<title>") == 1 + text.count("<svg")  # each chart says what it shows
    assert "EGA loss" in text
    assert "100 steps of 8 pairs" in text


def test_charts_can_be_read_in_grey(run):
    text = write_report(run).read_text()
    histograms = re.search(r"<h2>Similarities of the test queries</h2>(.*?)</section>", text)[1].split("<h3>")[1:]
    assert [(one.count('class="area"'), one.count('class="outline"')) for one in histograms] == [(1, 1), (1, 1)]
    together = re.search(r"<h3>Cosine similarity in the batch</h3>(.*?)</svg>", text)[1]
    assert "hardest negative (dashed)" in together
    smooth = [line for line in re.findall(r"<polyline[^>]*>", together) if "faint" not in line]
    assert ["dasharray" in line for line in smooth] == [True, False]


def test_scores_stand_in_the_report_as_they_are_in_the_file(run):
    text = write_report(run).read_text()
    now, before = (json.loads((run / name).read_text()) for name in ("results.json", "results_untrained.json"))
    for name, title in (("all", "All"), ("macro", "Macro (over meta-tasks)")):
        hit, old = now["means"][name]["hit@1"], before["means"][name]["hit@1"]
        row = re.search(rf"<tr><th>{re.escape(title)}</th>(.*?)</tr>", text)[1]
        cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", row)]
        assert cells[2:6] == [
            f"{100 * now['means'][name]['chance']:.1f}",
            f"{100 * old:.1f}",
            f"{100 * hit:.1f}",
            f"{100 * now['means'][name]['hit@1_standard_error']:.1f}",
        ]
        assert cells[6] == f"{100 * (hit - old):+.1f}"


def test_hostile_texts_are_shown_and_not_obeyed(run):
    text = write_report(run).read_text()
    assert "<script" not in text
    assert "src='http" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "my &lt;run&gt;" in text


def test_the_same_files_give_the_same_bytes(run):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_thumbnails_are_small_copies_of_the_pictures(run):
    text = write_report(run).read_text()
    images = re.findall(r'<img src="data:image/(png|jpeg);base64,([^"]*)" alt="(\d+)\.png"', text)
    assert len(images) > 10
    for _, data, index in images:
        thumbnail = Image.open(io.BytesIO(base64.b64decode(data)))
        assert max(thumbnail.size) <= gallery.THUMBNAIL_SIDE
        with Image.open(run.parent.parent / f"{index}.png") as picture:
            expected = np.asarray(picture.resize(thumbnail.size).convert("RGB"), np.float32)
        difference = np.abs(np.asarray(thumbnail.convert("RGB"), np.float32) - expected)
        assert difference.mean() < 3  # JPEG loses a little


def test_a_picture_that_is_gone_leaves_a_placeholder(run):
    text = write_report(run).read_text()
    assert "picture not found" not in text
    gone = re.search(r' alt="(\d+\.png)"', text)[1]
    (run.parent.parent / gone).unlink()
    after = write_report(run).read_text()
    assert f'alt="{gone}"' not in after
    assert after.count("picture not found") == text.count(f'alt="{gone}"')


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_thumbnails_of_every_kind_of_picture(tmp_path, mode):
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.new(mode, (300, 100)).save(path)
    data = gallery.thumbnail(str(path)).split(",", 1)[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (gallery.THUMBNAIL_SIDE, 53)


def test_a_file_that_is_no_picture_gets_no_thumbnail(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert gallery.thumbnail(str(tmp_path / "a.png")) is None
    assert gallery.thumbnail(str(tmp_path)) is None


def test_the_gallery_is_bounded(monkeypatch, run):
    (run / "amplified.json").unlink()  # which has cards too
    monkeypatch.setattr(gallery, "MOST_EXAMPLES", 6)
    text = write_report(run).read_text()
    assert 4 <= text.count("<article") <= 6
    assert {"card right", "card wrong"} <= set(re.findall(r'<article class="([^"]*)"', text))


def test_the_gallery_marks_right_and_wrong(run):
    text = write_report(run).read_text()
    for card in re.findall(r'<article class="card (right|wrong)">(.*?)</article>', text):
        verdict, body = card
        assert body.count("✓ right") == 1
        assert body.count("✗ wrong") == (verdict == "wrong")


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        (["config.json"], "config.json is absent"),
        (["metrics.jsonl"], "No training metrics"),
        (["results.json", "results_details.jsonl"], "Not evaluated yet"),
        (["results_untrained.json"], "No scores of the untrained model"),
        (["results_details.jsonl"], "No details of single queries"),
        (["results_untrained_details.jsonl"], ""),
        (["config.json", "metrics.jsonl"], "No training metrics"),
        (["metrics.jsonl", "results.json"], "Not evaluated yet"),
    ],
)
def test_what_is_missing_is_said(run, missing, note):
    for name in missing:
        (run / name).unlink()
    text = write_report(run).read_text()
    parse(text)
    assert note in text
    assert ("This report is partial" in text) == bool(note)


def test_an_interrupted_run_says_where_it_stopped(run):
    write_metrics(run, steps=40)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "loss": 0.1')
    text = write_report(run).read_text()
    assert "at step 40 of 100" in text
    assert "1 damaged line left out" in text


@pytest.mark.parametrize("config", [[], {"steps": "many", "model": "big", "loss": None, "data": {"batch_size": {}}}])
def test_settings_of_unforeseen_types_do_no_harm(run, config):
    (run / "config.json").write_text(json.dumps(config))
    parse(write_report(run).read_text())


def test_damaged_files_are_said_and_the_rest_is_shown(run):
    (run / "results.json").write_text("{")
    (run / "config.json").write_text("[")
    text = write_report(run).read_text()
    assert "results.json could not be read: not JSON" in text
    assert "config.json could not be read" in text
    assert "<h2>Training</h2>" in text


def test_values_that_are_not_finite_are_gaps(run):
    lines = [
        '{"step": 1, "loss": 1.0}',
        '{"step": 2, "loss": NaN}',
        '{"step": 3, "loss": null}',
        '{"step": 4, "loss": 2.0}',
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    text = write_report(run).read_text()
    parse(text)
    assert text.count('<circle class="dot"') == 2
    assert "nan" not in re.search(r"<h2>Training</h2>(.*?)</section>", text)[1].lower()


def test_a_partial_suite_is_labelled(tmp_path):
    subset, table = random_subset(np.random.default_rng(0), "VOC2007")
    results = evaluate(TableEncoder(table), [subset])
    results.save(tmp_path)
    assert "Partial: 1 of 36 subsets of mmeb" in write_report(tmp_path).read_text()
    dataclasses.replace(results, missing=()).save(tmp_path)
    anchors = re.search(r"<h2>Beside published scores</h2>(.*?)</section>", write_report(tmp_path).read_text())[1]
    assert "UniME, LLaVA-1.6" in anchors
    assert "ranks it last" in anchors
    assert "of 36 subsets" not in write_report(tmp_path).read_text()


def test_the_environment_is_that_of_the_results(run):
    assert "Environment" not in write_report(run).read_text()
    known = dataclasses.replace(
        Results.load(run / "results.json"), environment={"jax": "1.2.3", "devices": "8 x <TPU>"}
    )
    known.save(run)
    assert Results.load(run / "results.json").environment == known.environment
    shown = re.search(r"<h2>Environment</h2>(.*?)</section>", write_report(run).read_text())[1]
    assert "<td>1.2.3</td>" in shown
    assert "8 x &lt;TPU&gt;" in shown
    assert "training" not in shown
    record_environment(run / "environment.jsonl", 0, 100, {"jax": "1.2.2", "mesh": "data 4"})
    shown = re.search(r"<h2>Environment</h2>(.*?)</section>", write_report(run).read_text())[1]
    assert "<th>training</th><th>evaluation</th>" in shown
    assert "<tr><th>jax</th><td>1.2.2</td><td>1.2.3</td></tr>" in shown
    assert "<tr><th>mesh</th><td>data 4</td><td>–</td></tr>" in shown


def test_a_run_counted_in_epochs_says_how_long_it_is(run):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "steps": None, "epochs": 2}))
    assert "epochs" not in write_report(run).read_text().partition("</header>")[0]
    record_environment(run / "environment.jsonl", 0, 120, {"jax": "1.2.2"})
    text = write_report(run).read_text()
    assert "2 epochs, 120 steps of 8 pairs" in text.partition("</header>")[0]
    assert "at step 100 of 120" in text


def test_no_run_no_report(tmp_path):
    with pytest.raises(BadInputError, match="no such run directory"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="not a run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
