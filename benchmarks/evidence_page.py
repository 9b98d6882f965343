"""Writes docs/evidence.md from the records of `benchmarks/evidence.py`; all numbers are computed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from frozen.methods import METHODS
from frozen.worlds import WORLDS
from glyph_runs import standard_error

from ega_jax.losses import DEFAULTS

Rows = Sequence[dict[str, Any]]
SIDES = {"in_distribution": "in", "out_of_distribution": "out of"}
BASE = "info_nce"
CONTROL = "control"
EGA = ("ega_normalized", "ega_rebalanced")

PAGE = """# Does EGA help?

{answer}

Everything here is made by `benchmarks/evidence.py` from seeds; each cell is a line of
[benchmarks/evidence.jsonl](benchmarks/evidence.jsonl), with all settings that were tried.
[How it was done](#how-it-was-done) · [Tuned alike](#tuned-alike) · [Untuned](#turned-on-without-tuning) ·
[Conditions](#other-conditions) · [Space and gradients](#space-and-gradients) · [Glyphs](#whole-models-on-glyphs) ·
[Cost](#cost) · [Rerun it](#rerun-it)

## How it was done

**Frozen features.** Two heads (96 → 64 → 64, GELU) learn to retrieve over features that stay as they are: {runs}
trained runs in {cells} cells. Three sets of pairs, all from data that installed packages bring:

| | query → target | in distribution | out of distribution |
| --- | --- | --- | --- |
| names | a character's picture → its Unicode name | new pictures | scripts and typefaces never seen |
| digits | even rows of a handwritten digit → its odd rows | new digits | 8 and 9, never seen |
| patches | a distorted patch → the patch of a photograph | new patches | photographs never seen |

**The same budget for every method.** {trials} settings all over the space, and then {refined} around the best of them,
are trained from {tuning} seeds and compared by hit@1 on validation questions; the best of all is trained again from
{seeds} other seeds and tested once on other questions. All methods try the same {trials} pairs of learning rate and
temperature first, and with each pair another value of what else they have. The space, the methods and the seeds are
written down in `configs/evidence/frozen.py`. EGA has four numbers to find and InfoNCE two, with the same tries: that is
the price of having more settings, and it is counted here.

**Paired.** Runs of one seed share initial weights, batches and noise. Differences are taken within a seed; ± is the
standard error over seeds, and brackets hold the 95 % interval of a bootstrap over seeds. Seeds vary training, not the
questions: the intervals say how sure a difference is on these questions. A difference is in bold where its interval
leaves out 0; of twenty true zeros, one would be bold by chance, and more than that of so few seeds.

**The control.** EGA's relative hardness acts like a lower temperature, τ/(1 + ατ), with a margin of log β on the logits
of negatives. So what EGA does is compared with InfoNCE at that temperature and with that margin, tuned over the same α
and β.

## Tuned alike

hit@1 in percent of InfoNCE, and differences to it in points.

{tuned}

Over all six columns, by seed:

{overall}

![Differences of every method to tuned InfoNCE, with intervals.](figures/evidence-methods.svg)

## Turned on without tuning

InfoNCE keeps the temperature and learning rate that were chosen for it, and EGA is turned on with some α and β: nothing
is chosen for EGA. Difference to InfoNCE in points of hit@1, mean of in and out of distribution, {map_seeds} seeds.

![Gain of EGA over InfoNCE by α and β.](figures/evidence-map.svg)

{untuned}

## Other conditions

Each method is tuned again under each condition, with the same budget. Differences to InfoNCE under the same condition,
mean of in and out of distribution.

{conditions}

{everywhere}

{conditions_text}

## Space and gradients

Tuned alike, plain condition, means over the three sets. Alignment is the mean squared distance of a query to its
target, uniformity the logarithm of the mean Gaussian potential of targets
([Wang and Isola 2020](https://arxiv.org/abs/2005.10242)); lower is better of both. The spread of the
gradient norm over a run is its standard deviation over its mean.

{space}

{space_text}

## Whole models on Glyphs

{glyphs}

## Cost

{cost}

## What follows

{follows}

## Rerun it

```bash
pip install -e '.[evidence]'
python benchmarks/evidence.py frozen          # all cells that are not recorded
python benchmarks/evidence.py map
python benchmarks/evidence.py glyphs
python benchmarks/evidence.py overhead
python benchmarks/evidence.py page
python benchmarks/evidence.py frozen --worlds names --conditions plain --methods ega_normalized --records mine.jsonl
```
"""


class Evidence:
    """Records, by what they are about."""

    def __init__(self, rows: Rows):
        self.rows = rows

    def frozen(self, world: str, condition: str, method: str) -> dict[str, Any] | None:
        wanted = {"part": "frozen", "world": world, "condition": condition, "method": method}
        return next((row for row in self.rows if wanted.items() <= row.items()), None)

    def scores(self, world: str, condition: str, method: str, sides: Iterable[str] = SIDES) -> np.ndarray | None:
        """hit@1 of each seed in percent, mean of the sides."""
        row = self.frozen(world, condition, method)
        return None if row is None else 100 * np.mean([row["tested"][side] for side in sides], axis=0)

    def gains(
        self,
        method: str,
        base: str = BASE,
        worlds: Iterable[str] = WORLDS,
        condition: str = "plain",
        sides: Iterable[str] = SIDES,
    ) -> np.ndarray | None:
        """Differences of one method to another in points, of each seed, mean of worlds and sides."""
        sides = list(sides)
        pairs = [(self.scores(w, condition, method, sides), self.scores(w, condition, base, sides)) for w in worlds]
        differences = [one - other for one, other in pairs if one is not None and other is not None]
        return np.mean(differences, axis=0) if len(differences) == len(pairs) else None

    def everywhere(self, method: str, base: str = BASE) -> list[np.ndarray] | None:
        """`gains` of every world under every condition, if the method was tried in all of them."""
        cells = [(condition, world) for condition in self.conditions() for world in self.worlds(condition)]
        found = [self.gains(method, base, worlds=[world], condition=condition) for condition, world in cells]
        gains = [each for each in found if each is not None]
        return gains if len(gains) == len(cells) else None

    def conditions(self) -> list[str]:
        return list(dict.fromkeys(row["condition"] for row in self.rows if row["part"] == "frozen"))

    def methods(self, condition: str, worlds: Iterable[str] = WORLDS) -> list[str]:
        """Methods that every one of the worlds has under the condition, in their order."""
        worlds = list(worlds)
        return [m for m in METHODS if all(self.frozen(world, condition, m) for world in worlds)]

    def worlds(self, condition: str) -> list[str]:
        return [world for world in WORLDS if self.frozen(world, condition, BASE)]


def interval(differences: np.ndarray, resamples: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean, by a bootstrap over seeds."""
    random = np.random.default_rng(0)
    means = random.choice(differences, (resamples, len(differences))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def gain(differences: np.ndarray | None, *, brackets: bool = False) -> str:
    """A difference as it stands in tables: bold where its interval leaves out 0."""
    if differences is None:
        return ""
    low, high = interval(differences)
    text = f"{differences.mean():+.1f} ± {standard_error(list(differences)):.1f}"
    if low > 0 or high < 0:
        text = f"**{text}**"
    return f"{text} [{low:+.1f}, {high:+.1f}]" if brackets else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tuned_table(evidence: Evidence) -> str:
    cells = [(world, side) for world in WORLDS for side in SIDES]
    head = ["", *(f"{world}, {SIDES[side]}" for world, side in cells)]
    base = [evidence.scores(world, "plain", BASE, [side]) for world, side in cells]
    rows = [[METHODS[BASE].title, *(f"{x.mean():.1f} ± {standard_error(list(x)):.1f}" for x in base if x is not None)]]
    for method in evidence.methods("plain"):
        if method != BASE:
            gains = [evidence.gains(method, worlds=[world], sides=[side]) for world, side in cells]
            rows.append([METHODS[method].title, *map(gain, gains)])
    return table(head, rows)


def overall_table(evidence: Evidence) -> str:
    head = ["", "to InfoNCE", "to the control", "in distribution", "out of distribution"]
    rows = [
        [
            METHODS[method].title,
            gain(evidence.gains(method), brackets=True),
            gain(evidence.gains(method, CONTROL), brackets=True) if method != CONTROL else "",
            *(gain(evidence.gains(method, sides=[side])) for side in SIDES),
        ]
        for method in evidence.methods("plain")
        if method != BASE
    ]
    return table(head, rows)


def conditions_table(evidence: Evidence) -> str:
    methods = [method for method in METHODS if method != BASE]
    methods = [m for m in methods if any(evidence.frozen(w, c, m) for c in evidence.conditions()[1:] for w in WORLDS)]
    columns = [(condition, world) for condition in evidence.conditions() for world in evidence.worlds(condition)]
    rows = []
    for condition, world in columns:
        base = evidence.scores(world, condition, BASE)
        assert base is not None
        gains = [evidence.gains(method, worlds=[world], condition=condition) for method in methods]
        rows.append([f"{condition}, {world}", f"{base.mean():.1f}", *map(gain, gains)])
    return table(["", "InfoNCE", *(METHODS[method].title for method in methods)], rows)


def space_table(evidence: Evidence) -> str:
    names = {
        "alignment": "alignment",
        "uniformity": "uniformity",
        "query_to_mean_target": "cosine of queries and the mean target",
        "gradient_norm": "gradient norm",
        "gradient_norm_spread": "its spread",
        "temperature": "temperature chosen",
    }
    rows = []
    for method in evidence.methods("plain"):
        records = [evidence.frozen(world, "plain", method) for world in WORLDS]
        values = [np.mean([np.mean(r["tested"][n]) for r in records if r]) for n in list(names)[:-1]]
        chosen = ", ".join(f"{r['chosen']['temperature']:.2g}" for r in records if r)
        rows.append([METHODS[method].title, *(f"{value:.3g}" for value in values), chosen])
    return table(["", *names.values()], rows)


def everywhere_table(evidence: Evidence) -> str:
    """Means over all conditions, of the methods that every one of them has."""
    rows = []
    for method in METHODS:
        found = evidence.everywhere(method)
        if method == BASE or found is None:
            continue
        ahead = sum(each.mean() > 0 for each in found)
        low, high = min(found, key=np.mean), max(found, key=np.mean)
        control = evidence.everywhere(method, CONTROL)
        rows.append(
            [
                METHODS[method].title,
                gain(np.mean(found, axis=0), brackets=True),
                f"{ahead} of {len(found)}",
                gain(low),
                gain(high),
                "" if method == CONTROL or control is None else gain(np.mean(control, axis=0), brackets=True),
            ]
        )
    head = ["", "to InfoNCE, mean over all lines", "ahead in", "least", "most", "to the control, mean over all lines"]
    return table(head, rows)


def untuned_text(evidence: Evidence) -> str:
    lines = []
    for method in EGA:
        gains = map_gains(evidence, method)
        if gains is None:
            continue
        grid, values = gains
        best = int(np.argmax(values.mean(axis=(0, 2))))
        share = np.mean(values.mean(axis=(0, 2)) > 0)
        default = grid.index(DEFAULTS[:2]) if DEFAULTS[:2] in grid else None
        alpha, beta = grid[best]
        line = (
            f"- **{METHODS[method].title}**: better than InfoNCE on average in {share:.0%} of the squares; best at "
            f"α = {alpha:g}, β = {beta:g} ({gain(values[:, best].mean(0))})"
        )
        if default is not None:
            line += (
                f"; at α = {DEFAULTS.alpha:g}, β = {DEFAULTS.beta:g}: {gain(values[:, default].mean(0), brackets=True)}"
            )
        lines.append(line + ".")
    return "\n".join(lines)


def map_gains(evidence: Evidence, method: str) -> tuple[list[tuple[float, float]], np.ndarray] | None:
    """The grid, and differences in points, (worlds, grid, seeds)."""
    found = []
    grid: list[tuple[float, float]] = []
    for world in WORLDS:
        rows = {row["method"]: row for row in evidence.rows if row["part"] == "map" and row["world"] == world}
        if method not in rows or BASE not in rows:
            return None
        grid = [tuple(pair) for pair in rows[method]["grid"]]
        sides = [np.array(rows[method]["tested"][s]) - np.array(rows[BASE]["tested"][s]) for s in SIDES]
        found.append(100 * np.mean(sides, axis=0))
    return grid, np.stack(found)


def glyphs_section(evidence: Evidence) -> str:
    rows = [row for row in evidence.rows if row["part"] == "glyphs"]
    by_method, seeds = glyphs_runs(evidence)
    methods = list(by_method)
    if len(seeds) < 2:
        return "Not run yet."
    groups = list(dict.fromkeys((s["distribution"], s["meta_task"]) for row in rows for s in row["subsets"]))
    groups = [*(("all", d) for d in dict.fromkeys(g[0] for g in groups)), *sorted(groups)]

    def score(row: dict[str, Any], group: tuple[str, str]) -> float:
        first, second = group
        if first == "all":
            return distribution_score(row, second)
        found = [s["hit@1"] for s in row["subsets"] if (s["distribution"], s["meta_task"]) == group]
        return 100 * statistics.mean(found)

    lines = []
    for group in groups:
        base = np.array([score(by_method[BASE][seed], group) for seed in seeds])
        others = [np.array([score(by_method[m][seed], group) for seed in seeds]) - base for m in methods if m != BASE]
        place = {"in": "in distribution", "out": "out of distribution"}
        name = (
            f"**{place.get(group[1], group[1])}, all**" if group[0] == "all" else f"{place.get(group[0])}, {group[1]}"
        )
        lines.append([name, f"{base.mean():.1f} ± {standard_error(list(base)):.1f}", *map(gain, others)])
    options = "; ".join(f"{METHODS[m].title}: `{by_method[m][seeds[0]]['options']}`" for m in methods)
    minutes = statistics.median(row["seconds"] for row in rows) / 60
    return (
        "A tiny LLaVA-OneVision is trained from random weights by `configs/evidence/glyphs.py`, "
        f"{len(seeds)} paired seeds, about {minutes:.0f} minutes a run on a busy machine of two cores. Temperature and "
        "all else were chosen for InfoNCE in the demo; nothing was tuned for another method, and α and β are not tuned "
        f"at all. {options}. hit@1 in percent, and differences in points.\n\n"
        + table(["", METHODS[BASE].title, *(METHODS[m].title for m in methods if m != BASE)], lines)
    )


def glyphs_runs(evidence: Evidence) -> tuple[dict[str, dict[int, dict[str, Any]]], list[int]]:
    """Records of whole models by method and seed, and the seeds that every method has."""
    by_method: dict[str, dict[int, dict[str, Any]]] = {}
    for row in evidence.rows:
        if row["part"] == "glyphs":
            by_method.setdefault(row["method"], {})[row["seed"]] = row
    return by_method, sorted(set.intersection(*map(set, by_method.values()))) if by_method else []


def distribution_score(row: dict[str, Any], distribution: str) -> float:
    """hit@1 in percent, mean of the subsets in or out of distribution."""
    return 100 * statistics.mean(s["hit@1"] for s in row["subsets"] if s["distribution"] == distribution)


def glyphs_gains(evidence: Evidence, method: str, to: str = BASE) -> np.ndarray | None:
    """Differences of whole models in points, mean of in and out of distribution, of each seed; None before two."""
    by_method, seeds = glyphs_runs(evidence)
    if len(seeds) < 2:
        return None

    def score(row: dict[str, Any]) -> float:
        return statistics.mean(distribution_score(row, distribution) for distribution in ("in", "out"))

    return np.array([score(by_method[method][seed]) - score(by_method[to][seed]) for seed in seeds])


def what_follows(evidence: Evidence) -> str:
    """The defaults, and what a user should do."""
    found, late, plain = map_gains(evidence, EGA[0]), *(evidence.gains(m) for m in ("ega_normalized_late", EGA[0]))
    if found is None or late is None or plain is None:
        return "Too little has been run."
    grid, values = found
    means = values.mean(axis=(0, 2))
    best = int(np.argmax(means))
    alpha, beta = grid[best]
    above = np.mean(values[:, best] - values[:, grid.index((DEFAULTS.alpha, DEFAULTS.beta))], axis=0)
    tuned = [row["chosen"] for row in evidence.rows if row["part"] == "frozen" and row["method"] == EGA[0]]
    symbols = {"α": "alpha", "β": "beta", "τ": "temperature"}
    spans = [span(symbol, [chosen[name] for chosen in tuned]) for symbol, name in symbols.items()]
    whole = glyphs_gains(evidence, EGA[0])
    return (
        f'- `ega_jax.losses.DEFAULTS` are α = {DEFAULTS.alpha:g}, β = {DEFAULTS.beta:g}, `"{DEFAULTS.combine}"`. Tuned '
        f"together, in {len(tuned)} pairs of data and condition, came out {', '.join(spans)}: the defaults lie amid "
        "them. Turned on at the temperature that was tuned for InfoNCE, smaller α did better: the best square of "
        f"{len(grid)}, chosen after the fact, is α = {alpha:g}, β = {beta:g}, {gain(above, brackets=True)} to the "
        "defaults. There the weight hardly depends on the hardness: what helps is nearly a constant margin on all "
        f"negatives, and no longer what EGA is for. On whole models, untuned, EGA at the defaults {verdict(whole)} "
        "InfoNCE. None of this is a reason to move them.\n"
        f"- A β that rises from 0 does not earn its place: {gain(late - plain, brackets=True)} to a constant one.\n"
        '- Leave `"rebalanced"` and `"unnormalized"` for study. The first can be much worse than InfoNCE at '
        "temperatures near 0.1, and the more so the larger α is.\n"
        "- Tune the temperature first: it is worth more than any choice here. Then try `llave_loss` beside `ega_loss`: "
        "on these features it gained more."
    )


def span(symbol: str, values: Sequence[float]) -> str:
    return f"{symbol} from {min(values):.2g} to {max(values):.2g} (median {statistics.median(values):.2g})"


def cost_section(evidence: Evidence) -> str:
    row = next((row for row in evidence.rows if row["part"] == "overhead"), None)
    if row is None:
        return "Not measured yet."
    return (
        f"A gradient of {row['subject']} with EGA takes {row['ratio']:.3f} times as long as one with InfoNCE "
        f"(median of {row['rounds']} paired steps; quartiles {row['quartiles'][0]:.3f} and {row['quartiles'][1]:.3f}). "
        "What the loss alone costs is in [benchmarks/loss.md](benchmarks/loss.md)."
    )


def answer(evidence: Evidence) -> str:
    """The page in a few lines, each with the figures that it follows from."""
    lines = []
    for method in EGA:
        gains, everywhere = evidence.gains(method), evidence.everywhere(method)
        if gains is not None:
            lines.append(
                f"- **{METHODS[method].title}**, tuned with the same budget as everything else, {verdict(gains)} "
                f"InfoNCE, and {verdict(evidence.gains(method, CONTROL))} InfoNCE at EGA's own temperature and margin."
            )
        control = evidence.everywhere(method, CONTROL)
        if everywhere is not None and control is not None:
            ahead = sum(each.mean() > 0 for each in everywhere)
            places = f"{len(everywhere)} pairs of data and [condition](#other-conditions)"
            lines[-1] += (
                f" Over {places} it {verdict(np.mean(everywhere, axis=0))} InfoNCE, ahead in {ahead}, and "
                f"{verdict(np.mean(control, axis=0))} that control."
            )
    others = [method for method in evidence.methods("plain") if method not in (BASE, *EGA)]
    if others:
        best = max(others, key=lambda method: float(np.mean(evidence.gains(method))))
        everywhere = evidence.everywhere(best)
        lines.append(
            f"- Of the other methods, **{METHODS[best].title}** did best: it {verdict(evidence.gains(best))} InfoNCE"
            + (f"; over all conditions it {verdict(np.mean(everywhere, axis=0))} it." if everywhere else ".")
        )
    if evidence.gains("llave") is not None:
        lines.append(
            "- LLaVE weighs a negative by exp(α s), without the `1 +` and whatever the positive's similarity: its "
            "margin grows as the positive's similarity does, and never ends. EGA's absolute hardness, exp(α (s - 1)), "
            "would need a β of exp(α) for that, far outside of what was tried; at the β that were, it does next to "
            "nothing."
        )
    whole, control = (glyphs_gains(evidence, EGA[0], to) for to in (BASE, CONTROL))
    if whole is not None:
        lines.append(
            f"- **Whole models**: on [Glyphs](#whole-models-on-glyphs), trained from random weights and untuned, EGA "
            f"normalized {verdict(whole)} InfoNCE, and {verdict(control)} InfoNCE at EGA's temperature."
        )
    bad = evidence.gains("ega_unnormalized")
    if bad is not None:
        lines.append(f"- **{METHODS['ega_unnormalized'].title}** {verdict(bad)} InfoNCE: not for use.")
    return "\n".join(lines)


def verdict(gains: np.ndarray | None) -> str:
    """A difference in words."""
    if gains is None:
        return "was not compared with"
    low, high = interval(gains)
    size = f"({gain(gains, brackets=True)} points of hit@1)".replace("**", "")
    if low > 0:
        return f"is better {size} than"
    return f"is worse {size} than" if high < 0 else f"does not differ {size} from"


def false_negatives(evidence: Evidence) -> str:
    """What amplification does to pairs that are no negatives."""
    lines = []
    for method in EGA:
        masked, unmasked = (
            evidence.gains(method, worlds=["names"], condition=f"twice, {kind}") for kind in ("masked", "unmasked")
        )
        noise = [(world, evidence.gains(method, worlds=[world], condition="noise")) for world in ("names", "patches")]
        if masked is None or unmasked is None:
            continue
        title = METHODS[method].title
        line = (
            f"- {title}, where every target of a batch stands in it twice: {gain(masked)} with equal targets masked, "
            f"{gain(unmasked)} without the mask, a change of {gain(unmasked - masked)}"
        )
        told = ", ".join(f"{gain(found)} on {world}" for world, found in noise if found is not None)
        lines.append(line + (f". A fifth of the pairs wrong: {told}." if told else "."))
    return "\n".join(lines)


def why_unnormalized(evidence: Evidence) -> str:
    """What pushing queries off the mean target does."""
    found = []
    for method in (BASE, "ega_unnormalized"):
        rows = [row for world in WORLDS if (row := evidence.frozen(world, "plain", method))]
        if len(rows) < len(WORLDS):
            return ""
        found.append(np.mean([row["tested"]["query_to_mean_target"] for row in rows]))
    return (
        "`unnormalized` scales the push off negatives and leaves the pull to the positive as it was. Each query is "
        "then pushed off the mean of the targets, whatever they are, and the cosine of queries and the mean target "
        f"ends at {found[1]:.2f}, where InfoNCE's ends at {found[0]:.2f}."
    )


def render(rows: Rows, study: Any) -> str:
    """The page, from the records and `configs/evidence/frozen.py`'s study."""
    evidence = Evidence(rows)
    frozen = [row for row in rows if row["part"] == "frozen"]
    runs = len(frozen) * ((study.trials + study.refined) * len(study.tuning_seeds) + len(study.test_seeds))
    return PAGE.format(
        answer=answer(evidence),
        runs=f"{runs:,}",
        cells=len(frozen),
        trials=study.trials,
        refined=study.refined,
        tuning=len(study.tuning_seeds),
        seeds=len(study.test_seeds),
        map_seeds=len(study.map_seeds),
        tuned=tuned_table(evidence),
        overall=overall_table(evidence),
        untuned=untuned_text(evidence),
        conditions=conditions_table(evidence),
        everywhere=everywhere_table(evidence),
        conditions_text=false_negatives(evidence),
        space=space_table(evidence),
        space_text=why_unnormalized(evidence),
        glyphs=glyphs_section(evidence),
        cost=cost_section(evidence),
        follows=what_follows(evidence),
    )
