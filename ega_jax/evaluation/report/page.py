"""Puts the report together: one HTML file that needs nothing else, neither a network nor a script."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ega_jax import __version__
from ega_jax.evaluation.anchor_tables import html_anchors
from ega_jax.evaluation.report import sections
from ega_jax.evaluation.report.confusions import confusions
from ega_jax.evaluation.report.gallery import gallery
from ega_jax.evaluation.report.pairs import amplified_pairs
from ega_jax.evaluation.report.run_files import read_run
from ega_jax.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ega_jax.evaluation.report.run_files import RunFiles


def write_report(run_dir: Path | str) -> Path:
    """Writes `report.html` into a run directory, from what the directory holds.

    It reads config.json, metrics.jsonl, environment.jsonl, amplified.json, results.json and results_untrained.json
    with their details, and the image files that these name; what is missing is said in the report. The same files give
    the same report, byte for byte.

    Args:
      run_dir: the run directory.

    Returns:
      The path of the report.

    Raises:
      BadInputError: the directory is not there, or holds none of a run's files.
    """
    run = read_run(Path(run_dir))
    path = Path(run_dir) / "report.html"
    write_whole(path, _page(run))
    return path


def _page(run: RunFiles) -> str:
    pictures = gallery(run.results, run.untrained) if run.results else ""
    parts = [
        sections.headline(run),
        section("Scores by subset", sections.scores(run)),
        section("Beside published scores", _published(run), _PUBLISHED_LEAD),
        section("Similarities of the test queries", sections.similarities(run), _SIMILARITIES_LEAD),
        section("Hardness during training", sections.hardness(run), _HARDNESS_LEAD),
        section("What the loss amplified", amplified_pairs(run), _PAIRS_LEAD),
        section("Training", sections.training(run)),
        section("What the model retrieves", pictures, _GALLERY_LEAD),
        section("What is taken for what", confusions(run.results) if run.results else "", _CONFUSIONS_LEAD),
        section("All numbers", sections.table(run)),
        section("Settings", _settings(run.config)),
        section("Environment", environments([run])),
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in run.notes)
    banner = f'<aside class="notes"><b>This report is partial.</b><ul>{notes}</ul></aside>' if notes else ""
    return html_page(run.name, sections.description(run), banner + "".join(parts))


def html_page(title: str, lead: str, body: str) -> str:
    """A page that needs nothing else: style inside, no script.

    Args:
      title: as text.
      lead: below it, as HTML.
      body: as HTML.
    """
    style = (resources.files(__package__) / "style.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · ega_jax</title><style>{style}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><p>{lead}</p></header>{body}"
        f"<footer>{_METHOD}<p>ega_jax {escape(__version__)}</p></footer></main></body></html>\n"
    )


def section(title: str, body: str, lead: str = "") -> str:
    """A part with a heading; nothing where it has no body."""
    if not body:
        return ""
    paragraph = f'<p class="lead">{lead}</p>' if lead else ""
    return f"<section><h2>{title}</h2>{paragraph}{body}</section>"


def _published(run: RunFiles) -> str:
    """Anchors, for they are of MMEB alone."""
    return html_anchors({run.name: run.results}) if run.results and run.results.suite == "mmeb" else ""


def environments(runs: Sequence[RunFiles]) -> str:
    """Versions and devices of training and evaluation, a column each; nothing where no run knows them."""
    columns: list[tuple[str, dict[str, Any]]] = []
    for run in runs:
        prefix = f"{run.name}, " if len(runs) > 1 else ""
        for one in run.environments:
            since = f" from step {one['from_step']:,}" if len(run.environments) > 1 else ""
            columns.append((f"{prefix}training{since}", one))
        if run.results and run.results.environment:
            columns.append((f"{prefix}evaluation", run.results.environment))
    hidden = ("from_step", "to_step")
    names = [name for name in dict.fromkeys(name for _, one in columns for name in one) if name not in hidden]
    if not names:
        return ""
    head = "".join(f"<th>{escape(title)}</th>" for title, _ in columns)
    rows = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(str(one.get(name, '–')))}</td>" for _, one in columns)
        + "</tr>"
        for name in names
    )
    return (
        f'<div class="panel scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _settings(config: dict[str, Any]) -> str:
    if not config:
        return ""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in flattened(config))
    return f'<details><summary>config.json</summary><table class="settings">{rows}</table></details>'


def flattened(config: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names with dots, and values as text."""
    rows = []
    for name, value in config.items():
        if isinstance(value, dict) and value:
            rows += flattened(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return rows


_PUBLISHED_LEAD = "Of single datasets hardly anything is published; these are means over them."
_GALLERY_LEAD = (
    "The first five candidates of each query, best first, with their cosine similarity. The queries stand at even "
    "distances among those answered right and those answered wrong: they are not picked by hand, and how many of "
    "either are shown says nothing about the score."
)
_PAIRS_LEAD = (
    "Each query with its positive and its hardest negative in the batch. Hardness is how far the negative's cosine "
    "similarity lies above the positive's (or, absolute, below 1); amplification is how many times harder the negative "
    "pulls on the model than under InfoNCE."
)
_CONFUSIONS_LEAD = (
    "Wrong first choices by how often they were made; for a few text labels all choices, each row shaded by its shares."
)
_SIMILARITIES_LEAD = (
    "Cosine similarity of each query with its right answer and with the hardest wrong one in its pool. "
    "Training should pull the two apart."
)
_HARDNESS_LEAD = (
    "EGA keeps the value of the InfoNCE loss and amplifies the gradient of negatives that come close to the "
    "positive. An amplification of 1 is InfoNCE."
)
_METHOD = (
    "<p>hit@1 is the share of queries whose right answer scores highest in the query's own pool of candidates; a "
    "tie counts as wrong. Means are plain means of subsets. ± is one standard error, binomial for a subset. Chance "
    "is the mean of 1 / pool size.</p>"
)
