"""Do mined negatives help? The embedded data, with and without them, from the same seeds.

    python benchmarks/mining.py --seeds 5 --steps 300 --directory runs/mining

For each seed: a model is trained without explicit negatives, mines with `ega-jax mine`, and a second one is trained
from scratch on what came out, with the same seed and the same number of steps. Each command resumes, so that the whole
can be interrupted. Commands run one after another; nothing here depends on speed but the column of seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from glyph_runs import command, scores, standard_error, train
from measure import Results, machine

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/glyphs.py"
SUBSETS = ("GlyphToName", "NameToGlyph", "FaceToFace", "Restyle")
PAGE = """# Mined negatives on Glyphs

Made by `benchmarks/mining.py`. A tiny LLaVA-OneVision (`configs/glyphs.py`) learns {subsets} for {steps} steps: from
random weights without explicit negatives; and again from the same random weights, with {negatives} negatives a row that
the first model mined ({settings}). {count} seeds, paired: the difference is within a seed. hit@1 on the test rows, in
percent; ± is the standard error over seeds. Equal steps are not equal work: explicit negatives are encoded too.

| subset | without | with | difference | seeds in which it rose |
| --- | --- | --- | --- | --- |
{rows}

| | without | with |
| --- | --- | --- |
| seconds of training, mean | {seconds_without:.0f} | {seconds_with:.0f} |
| negatives mined a row, mean | | {mined:.2f} |

{verdict}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--negatives", type=int, default=1)
    parser.add_argument("--last-rank", type=int, default=50)
    parser.add_argument("--relative-margin", type=float, default=0.05)
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/mining")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/benchmarks/mining.json")
    arguments = parser.parse_args()
    results = Results(arguments.results, subject=("seed",))
    for seed in range(arguments.seeds):
        row = measure(arguments, seed)
        results.save("glyphs", [row], machine())
        arguments.results.with_suffix(".md").write_text(page(results))


def measure(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Both runs of one seed."""
    home = arguments.directory / str(seed)
    rules = {
        "negatives": arguments.negatives,
        "last-rank": arguments.last_rank,
        "relative-margin": arguments.relative_margin,
    }
    seconds_without = train(CONFIG, home / "without", seed, arguments.steps, subsets=SUBSETS)
    options = [word for name, value in rules.items() for word in (f"--settings.{name}", str(value))]
    command("mine", home / "without", "glyphs", home / "mined", "--subsets", *SUBSETS, *options)
    negatives = ("--data.directory", home / "mined", "--data.negatives-per-query", arguments.negatives)
    seconds_with = train(CONFIG, home / "with", seed, arguments.steps, *negatives, subsets=SUBSETS)
    accounts = [json.loads((home / "mined" / name / "mined.json").read_text()) for name in SUBSETS]
    return {
        "seed": seed,
        "steps": arguments.steps,
        "rules": rules,
        "mined_a_row": sum(a["mined"] for a in accounts) / sum(a["rows"] for a in accounts),
        "seconds": {"without": seconds_without, "with": seconds_with},
        "without": scores(home / "without"),
        "with": scores(home / "with"),
    }


def page(results: Results) -> str:
    """The page, from what was measured so far."""
    found = results.rows("glyphs")

    def line(name: str, pairs: list[tuple[float, float]]) -> str:
        differences = [100 * (after - before) for before, after in pairs]
        cells = [100 * statistics.mean(column) for column in zip(*pairs, strict=True)]
        rose = sum(difference > 0 for difference in differences)
        return f"| {name} | {cells[0]:.1f} | {cells[1]:.1f} | {spread(differences)} | {rose} of {len(pairs)} |"

    means = [tuple(statistics.mean(row[side].values()) for side in ("without", "with")) for row in found]
    lines = [line(name, [(row["without"][name], row["with"][name]) for row in found]) for name in SUBSETS]
    differences = [100 * (after - before) for before, after in means]
    mean, error = statistics.mean(differences), standard_error(differences)
    verdict = (
        "Too few seeds to say more."
        if len(found) < 3
        else f"Over all four, mined negatives change hit@1 by {mean:+.1f} ± {error:.1f} points: "
        + ("more than twice the standard error." if abs(mean) > 2 * error else "within twice the standard error.")
    )
    first = found[0]
    return PAGE.format(
        subsets=", ".join(SUBSETS),
        steps=first["steps"],
        negatives=first["rules"]["negatives"],
        settings=", ".join(f"{name} {value}" for name, value in first["rules"].items()),
        count=len(found),
        rows="\n".join([*lines, line("all", means)]),
        seconds_without=statistics.mean(row["seconds"]["without"] for row in found),
        seconds_with=statistics.mean(row["seconds"]["with"] for row in found),
        mined=statistics.mean(row["mined_a_row"] for row in found),
        verdict=verdict,
    )


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):+.1f} ± {standard_error(values):.1f}"


if __name__ == "__main__":
    main()
