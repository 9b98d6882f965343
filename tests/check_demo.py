"""Holds a finished `make demo` to what it promises: `python tests/check_demo.py runs/demo`. Exit code 1 says what fell
short.

In distribution: hit@1 of every subset at least 10 points and 5 standard errors above chance, and 4 times chance where
there are 50 candidates or more. Out of distribution: the mean above the untrained model's by 5 standard errors.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ega_jax.evaluation import Results

POINTS, STANDARD_ERRORS, TIMES, LARGE_POOL = 0.10, 5, 4, 50


def main(run_dir: Path) -> int:
    trained = Results.load(run_dir / "results.json")
    untrained = Results.load(run_dir / "results_untrained.json")
    failures = []
    for subset in trained.subsets:
        if subset.distribution != "in":
            continue
        scores = subset.scores
        least = scores.chance + max(POINTS, STANDARD_ERRORS * scores.standard_error)
        if subset.pool_size >= LARGE_POOL:
            least = max(least, TIMES * scores.chance)
        verdict = "ok" if scores.hit_at_1 >= least else "SHORT"
        print(f"{verdict:5} {subset.name:16} {scores.hit_at_1:.3f}, at least {least:.3f}, chance {scores.chance:.3f}")
        failures += [subset.name] if verdict != "ok" else []
    after, before = trained.means["out"].scores, untrained.means["out"].scores
    error = (after.standard_error**2 + before.standard_error**2) ** 0.5
    enough = after.hit_at_1 - before.hit_at_1 >= STANDARD_ERRORS * error
    print(f"out of distribution: {before.hit_at_1:.3f} -> {after.hit_at_1:.3f}, standard error {error:.4f}")
    failures += [] if enough else ["the mean out of distribution"]
    for name in ("report.html", "metrics.jsonl", "config.json", "checkpoints"):
        failures += [] if (run_dir / name).exists() else [f"{name} is missing"]
    print(f"{len(failures)} fell short: {', '.join(failures)}" if failures else "the demo holds what it promises")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
