"""Draws docs/benchmarks/loss.md from the results of loss.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from measure import Results, judge, table

Row = dict[str, Any]

INTRODUCTION = """\
# What the loss costs

Made by `benchmarks/loss.py`, which also says how to run it again. Steps are value and gradient, N = M, τ = 0.02,
float32 unless it is said otherwise. "Naive" is what most people write: all logits, optax's cross entropy, one jitted
`value_and_grad`. What is compared ran in turn, round after round; ratios are medians of the rounds' ratios. "Floor" is
the time of the three matrix products of a step (6 N M D floating-point operations) at the best rate that a product of
512, 2,048 or 8,192 rows with all columns reached in the same rounds. "Temporaries" are what XLA allocates besides
inputs and outputs (`memory_analysis()` of the compiled step).
"""

PALLAS = """\
## A hand-written kernel?

Not now. The kernel is plain JAX that XLA compiles for CPUs, GPUs and TPUs. XLA writes a block's logits to memory and
reads them back a few times, about 24 bytes a pair; the products take 6 D operations a pair. On an H200 (790 TFLOP/s in
bfloat16, 4.3 TB/s) that is, if nothing overlaps, {worst}:
a model, not a measurement. Multi-modal embedders have a D of 896 and more, and their encoders cost orders of magnitude
more than the loss; a second kernel would have to be kept exact for every mask and option. The rule: write it in Pallas
if a GPU or TPU shows a step over 1.3 times its floor at D of 768 to 3,584 and N of 8k to 64k in bfloat16.
`python benchmarks/loss.py accelerator --platform cuda` measures just that."""


def render(results: Results) -> str:
    """Returns the page: of each section that was run, its table; first of all, the targets."""
    targets = list(_targets(results))
    parts = [INTRODUCTION, "## Targets\n", table(("what", "measured", "target", ""), targets)]
    for section, title, columns in SECTIONS:
        if section in results:
            cells = [[_cell(row[key]) for key in columns.values()] for row in results.rows(section)]
            parts += [f"\n## {title}\n", f"{results.origin(section)}.\n", table(list(columns), cells)]
            if section in NOTES:
                parts.append("\n" + NOTES[section])
    worst = ", ".join(f"{1 + 24 / 4.3e12 / (6 * d / 790e12):.1f} times the floor at D = {d:,}" for d in (768, 3584))
    parts.append("\n" + PALLAS.format(worst=worst))
    if "accelerator" not in results:
        parts.append("No GPU or TPU was at hand for this page.")
    return "\n".join(parts) + "\n"


# (section, title, {heading: key of a row, or how to show it})
SECTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "times",
        "EGA and InfoNCE",
        {
            "N": "rows",
            "D": "features",
            "naive ms": "naive_ms",
            "InfoNCE ms": "info_nce_ms",
            "EGA ms": "ega_ms",
            "InfoNCE / naive": "info_nce / naive",
            "EGA / naive": "ega / naive",
            "EGA / InfoNCE": "ega / info_nce",
            "EGA / floor": "ega / floor",
            "GFLOP/s of a product": "gflops",
            "rounds": "rounds",
        },
    ),
    (
        "symmetric",
        "Symmetric",
        {
            "N": "rows",
            "D": "features",
            "naive symmetric ms": "naive_ms",
            "symmetric EGA ms": "ega_ms",
            "EGA / naive": "ega / naive",
            "rounds": "rounds",
        },
    ),
    (
        "peers",
        "Other libraries",
        {"N": "rows", "D": "features", "loss": "loss", "ms": "ms", "value": "value", "ours / this": "ours / this"},
    ),
    (
        "memory",
        "Memory",
        {
            "N": "rows",
            "D": "features",
            "naive, temporaries MiB": "naive_mib",
            "EGA": "ega_mib",
            "symmetric EGA": "symmetric_mib",
        },
    ),
    (
        "large",
        "A batch whose logits do not fit",
        {
            "N": "rows",
            "D": "features",
            "logits MiB": "logits_mib",
            "EGA, temporaries MiB": "mib",
            "s, one run": "seconds",
        },
    ),
    (
        "exact",
        "Errors against float64",
        {
            "N": "rows",
            "D": "features",
            "embeddings": "dtype",
            "value, relative": "default: value",
            "gradients, relative to their norm": "default: gradients",
            "the same in blocks of 100 rows: value": "blocks of 100: value",
            "gradients": "blocks of 100: gradients",
        },
    ),
    (
        "mesh",
        "Eight devices (of one CPU)",
        {
            "N": "rows",
            "D": "features",
            "exchange": "exchange",
            "temporaries MiB a device": "mib",
            "symmetric": "symmetric_mib",
            "gradients against one device, N / 4": "difference",
        },
    ),
    (
        "tpu",
        "Compiled for TPUs",
        {
            "chips": "chips",
            "N": "rows",
            "D": "features",
            "embeddings": "dtype",
            "exchange": "exchange",
            "temporaries MiB a chip": "mib",
            "symmetric": "symmetric_mib",
        },
    ),
    (
        "accelerator",
        "bfloat16 on an accelerator",
        {"N": "rows", "D": "features", "EGA ms": "ega_ms", "EGA / floor": "ega / floor"},
    ),
)

NOTES = {
    "peers": (
        "All compute the loss of the same batch; ours is compared with each by time. optax's `ntxent` compares each\n"
        "of 2 N rows with all others; `info_nce_loss` does so with `positives` and ids. optax's sigmoid cross\n"
        "entropy is over all pairs, as in `siglip_loss`, at its default temperature and bias.\n"
        "sentence-transformers' is the "
        "loss part of `CachedMultipleNegativesRankingLoss` with `mini_batch_size=512`. What is missing was\n"
        "not installed, or takes more than 8 GiB of temporaries (optax's `ntxent` keeps N x N x D products)."
    ),
    "tpu": "By the TPU compiler, on a machine without TPUs: memory, not time. Blocks of 1,024 rows.",
}


def _targets(results: Results) -> Iterator[tuple[str, str, str, str]]:
    """(what, measured, target, passed or missed) of every target."""
    times, symmetric = results.rows("times"), results.rows("symmetric")
    for features, target in ((256, 0.85), (1024, 0.95), (3584, 1.05)):
        found = _find(times, rows=8192, features=features)
        yield _judge(f"EGA / naive InfoNCE, N = 8192, D = {features}", found, "ega / naive", target)
    large = [row for row in times if row["rows"] >= 2048 and row["features"] >= 1024]
    yield _judge("EGA / floor, N ≥ 2048, D ≥ 1024, the worst", large, "ega / floor", 1.15)
    yield _judge("EGA / InfoNCE, N = 8192, D = 256", _find(times, rows=8192, features=256), "ega / info_nce", 1.06)
    wide = [row for row in times if row["rows"] == 8192 and row["features"] >= 1024]
    yield _judge("EGA / InfoNCE, N = 8192, D ≥ 1024, the worst", wide, "ega / info_nce", 1.03)
    zero = [row["beta 0 is info_nce"] for row in times if "beta 0 is info_nce" in row]
    if zero:
        verdict = ("the same compiled program", "pass") if all(zero) else ("another program", "**miss**")
        yield "EGA with β = 0 against InfoNCE, all sizes", verdict[0], "1.0 of its time", verdict[1]
    for features, target in ((256, 0.7), (1024, 1.0)):
        found = _find(symmetric, rows=8192, features=features)
        yield _judge(f"symmetric EGA / naive symmetric InfoNCE, N = 8192, D = {features}", found, "ega / naive", target)
    yield _judge("EGA / naive InfoNCE, N = 512, D 256 to 3584, the worst", _find(times, rows=512), "ega / naive", 1.10)
    memory = results.rows("memory")
    for size, target in ((8192, 140), (32768, 400)):
        found = _find(memory, rows=size, features=1024)
        yield _judge(f"temporaries, N = {size}, D = 1024, MiB", found, "ega_mib", target, "{:.0f}")
    found = _find(results.rows("large"), rows=131072)
    yield _judge("temporaries, N = 131072, D = 256, MiB (and it ran)", found, "mib", 2048, "{:.0f}")
    mesh = {row["exchange"]: row for row in results.rows("mesh")}
    if mesh:
        share = [{"share": mesh["ring"]["mib"] / mesh["all_gather"]["mib"]}]
        yield _judge("ring / all_gather, temporaries a device of 8, N = 32768, D = 1024", share, "share", 0.3)
        yield _judge("the ring's temporaries a device, MiB", [mesh["ring"]], "mib", 100, "{:.0f}")
        worst = list(mesh.values())
        yield _judge("gradients of either exchange against one device, relative", worst, "difference", 3e-6, "{:.1e}")
    exact = _find(results.rows("exact"), dtype="float32")
    for what, target in (("value", 1e-6), ("gradients", 1e-5)):
        for form in ("default", "blocks of 100"):
            name = f"error of {what} against float64, relative, τ = 0.02, {form}"
            yield _judge(name, exact, f"{form}: {what}", target, "{:.1e}")
    rounded = _find(results.rows("exact"), dtype="bfloat16")
    yield _judge("the same of bfloat16 gradients", rounded, "default: gradients", 3e-3, "{:.1e}")


def _find(found: list[Row], **values: Any) -> list[Row]:
    return [row for row in found if all(row[name] == value for name, value in values.items())]


def _judge(what: str, rows: list[Row], key: str, target: float, form: str = "{:.3f}") -> tuple[str, str, str, str]:
    """Holds the largest value among the rows against the target; nothing is measured where there are none."""
    return judge(what, max((row[key] for row in rows), default=None), target, form=form)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
