"""What the README and docs/ say is so: their programs run, their commands parse, their links lead somewhere.

Documentation that names every setting, option and metric stays complete, because a new one that it does not name fails
here.
"""

import dataclasses
import importlib
import inspect
import re
import runpy
import shlex
import shutil
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
import tyro
from flax import nnx
from PIL import Image

from ega_jax import cli, ega_loss
from ega_jax.losses import DEFAULTS, LossStats
from ega_jax.models import PRESETS, build, load_config, save_weights
from ega_jax.training.config import TrainConfig
from ega_jax.training.setup import write_model_directory

from . import micro

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda page: page.relative_to(ROOT).as_posix())
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}


EXCERPTS = {
    "docs/adding_a_backbone.md": "parts of classes in ega_jax/models; tests/models run those",
    "docs/data.md": "needs a prepared data set; tests/data/prepared/test_prepared.py reads one so",
}
"""Pages whose programs are not run here, and why: they are compiled."""


def blocks(text, language):
    found = re.findall(rf"^([ ]*)```{language}\n(.*?)^[ ]*```$", text, re.S | re.M)
    return [re.sub(rf"^{indentation}", "", block, flags=re.M) for indentation, block in found]


# ------------------------------------------------------------------------------------------------------------ programs


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A directory that holds what the pages' programs and commands expect to find, as the current one."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for page in ("README.md", "docs/training.md"):
        for program in blocks(TEXTS[page], "python"):
            if name := re.match(r"# (\w+\.py)\n", program):  # the first line names the file
                (tmp_path / name[1]).write_text(program)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model_directory(workplace):
    """A model directory in the place of the demo's run: both are read alike."""
    directory = workplace / "runs" / "demo"
    directory.parent.mkdir()
    write_model_directory(micro.config, directory, lambda: ["find the glyph named", "greek small letter alpha"])
    save_weights(build(load_config(directory), rngs=nnx.Rngs(0)), directory)
    Image.new("L", (20, 16), 255).save(workplace / "alpha.png")


@pytest.mark.parametrize("page", [page for page in TEXTS if page not in EXCERPTS and blocks(TEXTS[page], "python")])
@pytest.mark.usefixtures("model_directory")
def test_programs_run(page):
    programs = blocks(TEXTS[page], "python")
    names = {}
    if page == "README.md":  # its first screen leaves out what a reader has already
        queries = np.eye(6, 8, dtype=np.float32)
        names = {"model": nnx.Linear(8, 4, rngs=nnx.Rngs(0)), "queries": queries, "targets": queries + 0.1}
    for program in programs:
        exec(compile(program, page, "exec"), names)
    results = jax.tree.leaves([names.get(name) for name in ("loss", "gradient", "gradients", "stats", "vectors")])
    assert all(np.isfinite(result).all() for result in results)


@pytest.mark.parametrize("page", EXCERPTS)
def test_excerpts_compile(page):
    for program in blocks(TEXTS[page], "python"):
        compile(program, page, "exec")


def test_blocks_of_code_say_what_they_are():
    for page, text in TEXTS.items():
        kinds = re.findall(r"^[ ]*```(.*)$", text, re.M)[::2]
        assert set(kinds) <= {"python", "bash", "text", "json"}, page


# ------------------------------------------------------------------------------------------------------------ commands


def commands(program=None):
    """The arguments of every command line (of a program) that a page, or the help of a command, shows."""
    shown = [(page, line) for page, text in TEXTS.items() for block in blocks(text, "bash") for line in lines(block)]
    for path in sorted((ROOT / "ega_jax" / "commands").glob("*.py")):
        shown += [(path.name, line) for line in re.findall(r"^    (ega-jax .*)$", path.read_text(), re.M)]
    split = [(place, shlex.split(line, comments=True)) for place, line in shown]
    return [
        pytest.param(words[1:] if program else words, id=f"{place}: {shlex.join(words)}")
        for place, words in dict.fromkeys((place, tuple(words)) for place, words in split)
        if words and program in (None, words[0])
    ]


def lines(block):
    return block.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("words", commands())
def test_commands_are_known(words):
    """Each is parsed below, run by CI, or a program that a test names."""
    program, *arguments = words
    if program == "python":
        assert (ROOT / arguments[0]).is_file()
        tests = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
        assert any(re.search(rf"\b{Path(arguments[0]).stem}\b", text) for text in tests)
    elif program == "make":
        assert f'" make {arguments[0]}\n' in (ROOT / ".ci/run").read_text() or arguments == ["dist"]
    elif program == "pip":
        assert arguments[:2] == ["install", "-e"]  # the extras: test_extras_exist
    else:
        assert program == "ega-jax"


class Parsed(BaseException):
    """The command line was understood; nothing has been run."""


@pytest.mark.parametrize("arguments", commands("ega-jax"))
@pytest.mark.usefixtures("workplace")
def test_commands_parse(arguments, monkeypatch, capsys):
    parse = tyro.cli

    def parse_and_stop(*args, **options):
        parse(*args, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse_and_stop)
    with pytest.raises((Parsed, SystemExit)) as stopped:
        cli.run(list(arguments))
    if stopped.type is SystemExit:
        assert "--help" in arguments
        assert stopped.value.code == 0, capsys.readouterr()


def test_commands_in_sentences_exist():
    named = {name for text in TEXTS.values() for name in re.findall(r"`ega-jax (\w+)", text)}
    assert {"train", "eval"} <= named <= set(cli.COMMANDS)


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for text in TEXTS.values() for name in re.findall(r"`make (\w+)`", text)}
    named |= {parameters.values[0][0] for parameters in commands("make")}
    assert named
    assert named <= targets


def test_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for text in TEXTS.values() for name in re.findall(r"(?:ega-jax|\.)\[(\w+)\]", text)}
    assert {"train", "test"} <= named
    assert named <= set(extras)


# ------------------------------------------------------------------------------------------------------ links and files


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    text = re.sub(r"^[ ]*```.*?^[ ]*```$|`[^`\n]*`", "", TEXTS[page], flags=re.S | re.M)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{page} links to {link}"


def anchors(text):
    """As GitHub makes them of headings: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_are_named_exist(page):
    text = TEXTS[page]
    for name in re.findall(r"`((?:ega_jax|configs|docs|tests|benchmarks|launch|\.ci)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page} names {name}"
    if page == "docs/architecture.md":
        present = {path.name for folder in ("ega_jax", "tests") for path in (ROOT / folder).rglob("*")}
        named = set(re.findall(r"\b\w+\.py\b|\b\w+/(?=\s)", text))
        assert len(named) > 30
        assert {name.rstrip("/") for name in named} <= present | {"ega_jax"}


# -------------------------------------------------------------------------------------------------------- completeness


def test_every_page_is_in_the_navigation():
    """As the strict build of the site wants it."""
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert not [page for page in pages if f": {page}\n" not in navigation]


def test_every_setting_is_explained_with_its_default():
    text = TEXTS["docs/training.md"]
    tables = dict(_tables(TrainConfig(steps=1), ""))
    assert len(tables) > 7
    for title, settings in tables.items():
        rows = text[text.index(f"| {title} | default |") :].partition("\n\n")[0].splitlines()
        for name, value in settings.items():
            described = [row.replace("`", "") for row in rows if f"`{name}`" in row.split("|")[1]]
            assert described, f"docs/training.md says nothing of {title} {name}"
            default = described[0].split("|")[2]
            wanted = ["None"] if (title, name) == ("run", "steps") else _as_shown(value)
            assert any(shown in default for shown in wanted), f"{described[0]}: {value}"


def _tables(settings, name):
    """Title, and defaults by name, of settings and of those inside them."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    groups = {key: value for key, value in values.items() if dataclasses.is_dataclass(value)}
    yield f"`{name}`" if name else "run", {key: value for key, value in values.items() if key not in groups}
    for key, group in groups.items():
        yield from _tables(group, f"{name}{key}.")


def _as_shown(default):
    if default in ((), {}):
        return ["none", "all"]
    if isinstance(default, tuple):
        return [f"{default[0]} ... {default[-1]}" if len(default) > 1 else default[0]]
    return [str(default), str(default).replace("e-0", "e-")]


@pytest.mark.parametrize("package", ["losses", "models"])
def test_every_public_name_is_in_the_api(package):
    listed = set(re.findall(rf"^::: ega_jax\.{package}\.(\w+)$", TEXTS[f"docs/api/{package}.md"], re.M))
    assert set(importlib.import_module(f"ega_jax.{package}").__all__) <= listed


def test_every_preset_is_listed_with_its_width():
    rows = [row for row in TEXTS["docs/weights.md"].splitlines() if row.startswith("| `")]
    ours = {name: config for name, config in PRESETS.items() if not name.startswith("micro")}  # those of tests/micro.py
    for name, config in ours.items():
        (row,) = (row for row in rows if f"`{name}`" in row.split("|")[1])
        assert f" {config.text.hidden_size:,} " in row.split("|")[4]


def test_every_option_of_the_loss_is_explained():
    text = TEXTS["docs/loss.md"]
    options = text[text.index("## Options") : text.index("## Semantics")]
    for parameter in inspect.signature(ega_loss).parameters:
        assert f"`{parameter}`" in options, parameter
    for field in dataclasses.fields(LossStats):
        assert f"`{field.name}`" in text[text.index("## Statistics") :], field.name


def test_every_metric_is_explained():
    source = (ROOT / "ega_jax" / "training" / "step.py").read_text()
    names = set(re.findall(r'"(hardness/\w+)"', source)) | {
        "loss",
        "grad_norm",
        "lr",
        "examples_per_s",
        "data_wait_share",
        "eval/score",
    }
    assert len(names) > 10
    for name in names:
        assert f"`{name}`" in TEXTS["docs/training.md"], name


# ------------------------------------------------------------------------------------------------------------- figures


def test_figures_are_drawn_from_the_loss():
    draw = runpy.run_path(str(ROOT / "docs" / "figures" / "draw.py"))
    distances = np.linspace(-0.3, 0.1, 9)
    plain, ega = draw["measure"](distances, beta=0.0), draw["measure"](distances, alpha=5.0, beta=4.0)
    np.testing.assert_allclose(ega.value, plain.value, rtol=1e-6)
    share = 1 / (1 + np.exp(-distances / draw["TEMPERATURE"]))
    weight = 1 + 4 * np.exp(5 * distances)
    np.testing.assert_allclose(ega.negative / plain.negative, weight / (1 - share + weight * share), rtol=1e-4)
    np.testing.assert_allclose(ega.positive, -ega.negative, rtol=1e-5)


# Those of the loss; others are drawn from records.
DRAWN = sorted(
    path
    for name in ("amplification", "combine", "options")
    for path in (ROOT / "docs" / "figures").glob(f"{name}-*.svg")
)


@pytest.mark.parametrize("figure", DRAWN, ids=lambda path: path.name)
def test_figures_show_the_defaults(figure):
    words = " ".join(ElementTree.parse(figure).getroot().itertext())
    assert f"α {DEFAULTS.alpha:g}, β {DEFAULTS.beta:g}" in words, "run python docs/figures/draw.py again"
