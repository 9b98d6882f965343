"""What an evaluation of all of MMEB leaves besides results.json: tables to publish, and score files as MMEB's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ega_jax.evaluation.anchor_tables import latex_anchors, markdown_anchors
from ega_jax.evaluation.tables import markdown_table
from ega_jax.files import write_whole

if TYPE_CHECKING:
    from ega_jax.evaluation.results import Results

SCORES = "mmeb_scores"


def write_suite_files(results: Results, directory: Path, name: str) -> list[Path]:
    """Writes into `directory`:

        results.md, results.tex         the scores of each dataset, and the means beside published ones
        mmeb_scores/DATASET_score.json  {"acc": hit@1, "num_correct": n, "num_pred": n}, as VLM2Vec's harness does; of a
                                        partial evaluation also "partial": what is missing or short

    Args:
      results: with details.
      directory: of the results.
      name: what the tables call the run.

    Returns:
      The files and the directory of score files.
    """
    markdown, latex, scores = directory / "results.md", directory / "results.tex", directory / SCORES
    title = f"# {name} on MMEB\n\n"
    write_whole(markdown, title + markdown_table(results) + "\n" + markdown_anchors({name: results}))
    write_whole(latex, latex_anchors({name: results}))
    if scores.exists():  # of an earlier evaluation, of which more may have been there
        shutil.rmtree(scores)
    scores.mkdir()
    label = {} if results.complete else {"partial": {"missing": list(results.missing), "short": results.short}}
    for details in results.details:
        correct = sum(rank == 1 for rank in details.ranks)
        content = {"acc": correct / len(details.ranks), "num_correct": correct, "num_pred": len(details.ranks), **label}
        write_whole(scores / f"{details.name}_score.json", json.dumps(content, indent=4) + "\n")
    return [markdown, latex, scores]
