"""Runs beside published scores, as Markdown and LaTeX, with footnotes that neither leaves out."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ega_jax.evaluation.anchors import ANCHORS, CAVEATS
from ega_jax.evaluation.tables import partial_note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ega_jax.evaluation.anchors import Anchor
    from ega_jax.evaluation.results import Results

TITLES = ("Cls", "VQA", "Ret", "VG", "IND", "OOD", "All 36", "Macro 4")
MEANS = ("classification", "vqa", "retrieval", "grounding", "in", "out", "all", "macro")
LEGEND = (
    "hit@1 in percent. Cls, VQA, Ret, VG: means over the datasets of classification, visual question answering, "
    "retrieval and visual grounding. IND, OOD: over the 20 datasets in distribution and the 16 out of it. All 36: "
    "over all datasets. Macro 4: over the four meta-task means. -: not published."
)


def markdown_anchors(runs: Mapping[str, Results]) -> str:
    """Returns a table of runs, by name, and published rows, with all caveats below it."""
    notes = _Footnotes(runs)
    lines = ["| Model | " + " | ".join(TITLES) + " |", "| --- |" + " ---: |" * len(TITLES)]
    for name, cells, marks in _rows(runs, notes):
        sign = "".join(f"<sup>{mark}</sup>" for mark in marks)
        shown = f"**{name}**" if name in runs else name
        lines.append("| " + " | ".join([shown.replace("|", "\\|") + sign, *cells]) + " |")
    lines += ["", LEGEND, ""]
    lines += [f"- {f'{mark}: ' if mark else ''}{text}" for mark, text in notes.texts()]
    return "\n".join(lines) + "\n"


def latex_anchors(runs: Mapping[str, Results]) -> str:
    """Returns the same as a LaTeX table (package booktabs), footnotes in its caption."""
    notes = _Footnotes(runs)
    rows = []
    for name, cells, marks in _rows(runs, notes):
        sign = f"$^{{{','.join(marks)}}}$" if marks else ""
        rows.append(f"{_escaped(name)}{sign} & {' & '.join(cells)} \\\\")
    rows.insert(len(runs), r"\midrule")
    caption = " ".join([LEGEND, *(f"{f'({mark}) ' if mark else ''}{text}" for mark, text in notes.texts())])
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\small",
            rf"\begin{{tabular}}{{l{'r' * len(TITLES)}}}",
            r"\toprule",
            rf"Model & {' & '.join(TITLES)} \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_escaped(caption)}}}",
            r"\end{table}",
            "",
        ]
    )


def html_anchors(runs: Mapping[str, Results]) -> str:
    """Returns the same as an HTML table and a list."""
    notes = _Footnotes(runs)
    head = "".join(f"<th>{title}</th>" for title in ("Model", *TITLES))
    rows = []
    for name, cells, marks in _rows(runs, notes):
        shown = f"<b>{escape(name)}</b>" if name in runs else escape(name)
        sign = f" <sup>{', '.join(marks)}</sup>" if marks else ""
        rows.append(f"<tr><th>{shown}{sign}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    texts = "".join(f"<li>{f'{mark}: ' if mark else ''}{escape(text)}</li>" for mark, text in notes.texts())
    return (
        f'<div class="panel scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f"<p>{escape(LEGEND)}</p><ul>{texts}</ul>"
    )


class _Footnotes:
    """Numbers notes in the order in which rows first ask for them."""

    def __init__(self, runs: Mapping[str, Results]) -> None:
        self._general = [CAVEATS["all"], CAVEATS["ties"]]
        self._partial = {name: f"{name}: {note}" for name, results in runs.items() if (note := partial_note(results))}
        self._numbers: dict[str, str] = {}

    def of_run(self, name: str) -> list[str]:
        return [self._mark(self._partial[name])] if name in self._partial else []

    def of_anchor(self, anchor: Anchor) -> list[str]:
        return [self._mark(CAVEATS[caveat]) for caveat in anchor.caveats]

    def texts(self) -> list[tuple[str, str]]:
        return [("", text) for text in self._general] + [(mark, text) for text, mark in self._numbers.items()]

    def _mark(self, text: str) -> str:
        return self._numbers.setdefault(text, str(len(self._numbers) + 1))


def _rows(runs: Mapping[str, Results], notes: _Footnotes) -> list[tuple[str, list[str], list[str]]]:
    """Name, cells and marks of each row: runs first, then what was published."""
    rows = []
    for name, results in runs.items():
        partial = " (partial)" if not results.complete else ""
        scores = [results.means[mean].scores.hit_at_1 if mean in results.means else None for mean in MEANS]
        cells = _cells([None if score is None else 100 * score for score in scores])
        rows.append(
            (
                name,
                [
                    f"{cell}{partial}" if mean in ("all", "macro") else cell
                    for mean, cell in zip(MEANS, cells, strict=True)
                ],
                notes.of_run(name),
            )
        )
    for anchor in ANCHORS:
        rows.append((anchor.model, _cells(anchor[1:9]), notes.of_anchor(anchor)))
    return rows


def _cells(scores: Sequence[float | None]) -> list[str]:
    return ["-" if score is None else f"{score:.1f}" for score in scores]


def _escaped(text: str) -> str:
    """Text as LaTeX takes it."""
    special = {character: f"\\{character}" for character in "&%$#_{}"}
    special |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    special |= {"<": r"\textless{}", ">": r"\textgreater{}"}
    return "".join(special.get(character, character) for character in text)
