"""Does EGA help? Every method with the same budget to be tuned, from paired seeds, on frozen features and on Glyphs.

    pip install -e '.[evidence]'
    python benchmarks/evidence.py frozen            # what configs/evidence/frozen.py says; resumes
    python benchmarks/evidence.py map               # EGA over α and β, where InfoNCE has been tuned; resumes
    python benchmarks/evidence.py glyphs            # whole models, by configs/evidence/glyphs.py; resumes
    python benchmarks/evidence.py overhead          # time of a gradient with EGA against one with InfoNCE
    python benchmarks/evidence.py page              # docs/evidence.md and its figures, from what was recorded

Each cell is one line of docs/benchmarks/evidence.jsonl, with the settings tried, the one chosen and the scores of every
seed; a cell that stands there is not run again. To run one again: delete its line, or name another file.

    python benchmarks/evidence.py frozen --worlds names --conditions plain --methods ega_normalized --records mine.jsonl
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import glyph_runs
import numpy as np

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("frozen", "map", "glyphs", "overhead", "page"))
    parser.add_argument("--records", type=Path, default=ROOT / "docs/benchmarks/evidence.jsonl")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs/evidence", help="features, and runs on Glyphs")
    for name in ("worlds", "conditions", "methods"):
        parser.add_argument(f"--{name}", nargs="*", help="only these")
    arguments = parser.parse_args()
    {"frozen": frozen, "map": frozen_map, "glyphs": glyphs, "overhead": overhead, "page": page}[arguments.part](
        arguments, Records(arguments.records)
    )


class Records:
    """Lines of JSON, one a cell, added as they are done."""

    def __init__(self, path: Path):
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def find(self, **subject: Any) -> dict[str, Any] | None:
        return next((row for row in self.rows if all(row.get(key) == value for key, value in subject.items())), None)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def frozen(arguments: argparse.Namespace, records: Records) -> None:
    """Tunes and tests every cell that is not recorded."""
    from frozen import training, worlds

    study = _study()
    cells = [cell for cell in study.cells() if _asked_for(arguments, cell.world, cell.condition, cell.method)]
    for number, cell in enumerate(cells, 1):
        subject = {"part": "frozen", "world": cell.world, "condition": cell.condition, "method": cell.method}
        if records.find(**subject):
            continue
        began = time.perf_counter()
        world, condition = worlds.load(cell.world, arguments.cache / "features"), study.conditions[cell.condition]
        tried = _try(world, condition, cell.method, study.settings(cell.method), study.tuning_seeds)
        tried += _try(world, condition, cell.method, study.refine(cell.method, _best(tried)), study.tuning_seeds)
        tested = training.train(world, condition, cell.method, [_best(tried)], study.test_seeds)
        records.add(
            subject
            | {
                "chosen": _rounded(_best(tried)),
                "seeds": list(study.test_seeds),
                "tested": {name: _rounded(values[0]) for name, values in tested.items()},
                "tried": _rounded(tried),
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
        near, far = (100 * tested[f"{where}_distribution"].mean() for where in ("in", "out_of"))
        print(f"{number}/{len(cells)} {cell}: hit@1 {near:.1f} / {far:.1f}", flush=True)


def _try(
    world: Any, condition: Any, method: str, settings: list[dict[str, float]], seeds: Any
) -> list[dict[str, float]]:
    """The settings, each with its hit@1 on validation questions."""
    from frozen import training

    found = training.train(world, condition, method, settings, seeds)["validation"].mean(1)
    return [{**each, "validation": float(score)} for each, score in zip(settings, found, strict=True)]


def _best(tried: list[dict[str, float]]) -> dict[str, float]:
    """The setting of the highest score, without the score."""
    best = max(tried, key=lambda each: each["validation"])
    return {name: value for name, value in best.items() if name != "validation"}


def frozen_map(arguments: argparse.Namespace, records: Records) -> None:
    """EGA over α and β where InfoNCE has been tuned, its temperature and learning rate kept."""
    from frozen import training, worlds

    study = _study()
    grid = [(alpha, beta) for alpha in study.alphas for beta in study.betas]
    for name in worlds.WORLDS:
        for method in ("info_nce", *study.map_methods):
            subject = {"part": "map", "world": name, "condition": "plain", "method": method}
            tuned = records.find(part="frozen", world=name, condition="plain", method="info_nce")
            if records.find(**subject) or not _asked_for(arguments, name, "plain", method):
                continue
            if tuned is None:
                sys.exit(f"InfoNCE is not tuned on {name} yet: python benchmarks/evidence.py frozen")
            world = worlds.load(name, arguments.cache / "features")
            pairs = grid if method != "info_nce" else [(1.0, 1.0)]
            settings = [
                {**tuned["chosen"], **({"alpha": alpha, "beta": beta} if method != "info_nce" else {})}
                for alpha, beta in pairs
            ]
            tested = training.train(world, study.conditions["plain"], method, settings, study.map_seeds)
            kept = ("in_distribution", "out_of_distribution", "gradient_norm")
            records.add(
                subject
                | {
                    "grid": pairs,
                    "seeds": list(study.map_seeds),
                    "tested": {each: [_rounded(row) for row in tested[each]] for each in kept},
                }
            )
            print(f"{subject}", flush=True)


def glyphs(arguments: argparse.Namespace, records: Records) -> None:
    """Trains and scores every finalist from every seed, seed by seed: whatever is done is paired."""
    file = ROOT / "configs/evidence/glyphs.py"
    content = runpy.run_path(str(file))
    for seed in content["seeds"]:
        for method, options in content["finalists"].items():
            subject = {"part": "glyphs", "method": method, "seed": seed}
            if records.find(**subject) or (arguments.methods and method not in arguments.methods):
                continue
            run = arguments.cache / "glyphs" / f"{method}-{seed}"
            seconds = glyph_runs.train(file, run, seed, content["config"].steps, *options)
            subsets = glyph_runs.results(run)["subsets"]
            kept = ("name", "meta_task", "distribution")
            records.add(
                subject
                | {
                    "options": " ".join(map(str, options)),
                    "subsets": [
                        {key: subset[key] for key in kept} | {"hit@1": _rounded(subset["hit@1"])} for subset in subsets
                    ],
                    "seconds": round(seconds, 1),
                }
            )
            print(f"{subject}: {seconds:.0f} s", flush=True)


def overhead(arguments: argparse.Namespace, records: Records, rows: int = 64, length: int = 64) -> None:
    """Time of a gradient with EGA against one with InfoNCE: a small model and short texts, where it shows most."""
    import jax
    from measure import interleave

    from ega_jax.losses import ega_loss, info_nce_loss
    from ega_jax.models import build
    from ega_jax.models.functional import Functional

    if records.find(part="overhead"):
        return
    functional = Functional(lambda rngs: build("llava_onevision_tiny", rngs=rngs))
    parameters = functional.initialize(0)
    texts = np.random.default_rng(0).integers(10, 500, (2, rows, length)).astype(np.int32)
    sides = [{"input_ids": ids, "attention_mask": np.ones(ids.shape, bool)} for ids in texts]

    def program(loss: Any) -> Any:
        def objective(parameters: Any) -> Any:
            return loss(*(functional.embed(parameters, side) for side in sides), temperature=0.05, symmetric=True)

        gradient = jax.jit(jax.grad(objective))
        return lambda: jax.block_until_ready(gradient(parameters))

    times = interleave({"ega": program(ega_loss), "info_nce": program(info_nce_loss)}, seconds=90)
    ratios = sorted(a / b for a, b in zip(times["ega"], times["info_nce"], strict=True))
    records.add(
        {
            "part": "overhead",
            "subject": f"`llava_onevision_tiny` ({rows} pairs of texts of {length} tokens)",
            "ratio": _rounded(np.median(ratios)),
            "quartiles": _rounded(np.quantile(ratios, [0.25, 0.75])),
            "rounds": len(ratios),
            "milliseconds": _rounded(1e3 * np.median(times["info_nce"])),
        }
    )


def page(arguments: argparse.Namespace, records: Records) -> None:
    """Writes the page and its figures."""
    import evidence_figures
    import evidence_page

    (ROOT / "docs/evidence.md").write_text(evidence_page.render(records.rows, _study()))
    evidence_figures.draw(records.rows, ROOT / "docs/figures")


def _study() -> Any:
    return runpy.run_path(str(ROOT / "configs/evidence/frozen.py"))["study"]


def _asked_for(arguments: argparse.Namespace, world: str, condition: str, method: str) -> bool:
    asked = ((arguments.worlds, world), (arguments.conditions, condition), (arguments.methods, method))
    return all(only is None or value in only for only, value in asked)


def _rounded(values: Any) -> Any:
    """Five digits of numbers, for files that people read."""
    if isinstance(values, dict):
        return {name: _rounded(value) for name, value in values.items()}
    if np.ndim(values):
        return [_rounded(value) for value in values]
    return bool(values) if isinstance(values, bool | np.bool_) else float(f"{float(values):.5g}")


if __name__ == "__main__":
    main()
