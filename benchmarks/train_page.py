"""Draws docs/benchmarks/train.md from the results of train.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from measure import Results, judge, table

Row = dict[str, Any]

INTRODUCTION = """\
# What a train step costs

Made by `benchmarks/train.py`, which also says how to run it again: the trainer's own step, with both sides encoded in
chunks (GradCache), the loss over the whole batch, all gradients, clipping and AdamW. Every row of either side has a
square picture (two tiles) and a text, padded. The model is the LLaVA-OneVision of 46 million parameters of
[the page on models](model.md), on random weights, in float32 on a CPU. "Full" trains every parameter, "LoRA" adapters
of rank 8 on every linear map of the decoder. What is compared ran in turn, round after round, each in a process of its
own with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` (as in `make demo`; XLA and torch alike take and return hundreds of
megabytes every step); times are medians of the rounds, ratios medians of the rounds' ratios. "Temporaries" are what
XLA allocates besides inputs and outputs (`memory_analysis()` of the compiled step).
"""

STEP = """\
The same in torch is what people write: transformers' model and peft's adapters, and GradCache's recipe. All chunks are
encoded without gradients, the loss is differentiated by the embeddings, and every chunk is encoded again to carry
those gradients back; then clipping and AdamW. With LoRA the tower is frozen, and here it sees each picture once
(`data.keep_frozen_features`): its features wait for the second pass. That recipe encodes them twice. Both begin with
the same weights, adapters and inputs, and EGA is the loss of both: their losses were compared after every step. Layers
here keep the results of matrix products
(`model.remat` is `dots`) and recompute the rest, as torch's fused kernels do. Peak memory is the most that the process
had resident, framework and weights and all: until the end of the first step (loading and compiling), and in the steps
after it. The target is for the larger of the two. What the two frameworks' products alone make of a machine is in
[the page on models](model.md): on CPUs it bounds what is possible here.
"""

GRADCACHE = """\
Chunks against one big batch of the same rows, both without remat of layers, each in a process of its own. With chunks
every row is encoded once more: a third more matrix products where everything is trained, and half more of the
decoder's with LoRA, whose backward pass computes no gradients of kernels; its frozen tower runs once. That the time
rises by less is probably because the few activations of a chunk stay nearer to the cores than all of a batch's; that
was not measured.
"""

LINEAR = """\
Steps of {training}, without remat of layers. "Row-tokens" are those of the decoder on both sides, padding and
visual tokens included. In each series one thing grows, and the last column is the cost of a row-token against that of
the first step of the series: where it stays at 1, time is proportional. Attention is what grows faster than the
length. Temporaries are those of a chunk, whatever the batch.
"""


def render(results: Results) -> str:
    """Returns the page: of each section that was run, its tables; first of all, the targets."""
    parts = [INTRODUCTION, "## Targets\n", table(("what", "measured", "target", ""), list(_targets(results)))]
    for section, title, draw in SECTIONS:
        if section in results:
            parts += [f"\n## {title}\n", f"{results.origin(section)}.\n", draw(results.rows(section))]
    return "\n".join(parts) + "\n"


def _targets(results: Results) -> Iterator[tuple[str, str, str, str]]:
    for training, most in (("full", 1.45), ("LoRA", 1.65)):
        key = training.lower()
        step = [row for row in results.rows("step") if row["training"] == key]
        rate = min((row["ratio"] for row in step), default=None)
        memory = max((_peak(row, "jax") / _peak(row, "torch") for row in step), default=None)
        yield judge(f"{training}: examples/s, times torch's (1.3 is aimed at)", rate, 1, at_least=True, form="{:.2f}")
        yield judge(f"{training}: peak memory, times torch's", memory, 1, form="{:.2f}")
        cached = [row for row in results.rows("gradcache") if row["training"] == key]
        time = max((row["ratio"] for row in cached), default=None)
        share = max((row["share"] for row in cached), default=None)
        yield judge(f"{training}: time of chunks, times one big batch's", time, most, form="{:.2f}")
        yield judge(f"{training}: temporaries of chunks, times one big batch's", share, 0.25)


def _step(rows: list[Row]) -> str:
    header = (
        "trained",
        "rows",
        "a chunk",
        "tokens a row",
        "torch, s",
        "here, s",
        "examples/s",
        "torch / here",
        "peak GiB to the first step / later, torch",
        "here",
        "temporaries MiB, here",
        "losses differ by at most",
        "rounds",
    )

    return f"{STEP}\n" + table(
        header,
        [
            (
                f"{_trained(row)}, {row['trained'] / 1e6:.2g} M",
                row["rows"],
                row["chunk"],
                row["tokens"],
                f"{row['seconds']['torch']:.2f}",
                f"{row['seconds']['jax']:.2f}",
                f"{row['rows'] / row['seconds']['jax']:.3g}",
                f"**{row['ratio']:.2f}**",
                _memory(row, "torch"),
                _memory(row, "jax"),
                f"{row['temporaries_mib']['jax']:,.0f}",
                f"{row['difference']:.1e}",
                row["rounds"],
            )
            for row in rows
        ],
    )


def _gradcache(rows: list[Row]) -> str:
    header = (
        "trained",
        "rows",
        "a chunk",
        "tokens a row",
        "one batch, s",
        "chunks, s",
        "ratio",
        "one batch, temporaries MiB",
        "chunks",
        "ratio",
        "peak GiB to the first step / later, one batch",
        "chunks",
        "losses differ by at most",
        "rounds",
    )
    return f"{GRADCACHE}\n" + table(
        header,
        [
            (
                _trained(row),
                row["rows"],
                row["chunk"],
                row["tokens"],
                f"{row['seconds']['whole']:.2f}",
                f"{row['seconds']['chunks']:.2f}",
                f"**{row['ratio']:.2f}**",
                f"{row['temporaries_mib']['whole']:,.0f}",
                f"{row['temporaries_mib']['chunks']:,.0f}",
                f"**{row['share']:.3f}**",
                _memory(row, "whole"),
                _memory(row, "chunks"),
                f"{row['difference']:.1e}",
                row["rounds"],
            )
            for row in rows
        ],
    )


def _linear(rows: list[Row]) -> str:
    header = (
        "series",
        "rows",
        "a chunk",
        "chunks",
        "tokens a row",
        "s",
        "temporaries MiB",
        "µs a row-token",
        "of the first's",
    )
    parts = []
    for training in sorted({row["training"] for row in rows}):
        body = []
        for name, (varied, kept) in SERIES.items():
            for group in _series([row for row in rows if row["training"] == training], varied, kept):
                first = group[0]["microseconds_a_token"]
                body += [
                    (
                        name,
                        row["rows"],
                        row["chunk"],
                        row["rows"] // row["chunk"],
                        row["tokens"],
                        f"{row['seconds']:.2f}",
                        f"{row['temporaries_mib']:,.0f}",
                        f"{row['microseconds_a_token']:,.0f}",
                        f"{row['microseconds_a_token'] / first:.2f}",
                    )
                    for row in group
                ]
        title = {"full": "every parameter", "lora": "LoRA"}[training]
        parts.append(f"{LINEAR.format(training=title)}\n{table(header, body)}")
    return "\n\n".join(parts)


SERIES = {
    # (what grows, what is kept)
    "chunks": ("chunk", ("rows", "room")),
    "batch": ("rows", ("chunk", "room")),
    "length": ("room", ("rows", "chunk")),
}


def _series(rows: list[Row], varied: str, kept: tuple[str, ...]) -> Iterator[list[Row]]:
    """The groups of three rows or more that differ in one thing alone, from small to large; chunks from few to many."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in kept), []).append(row)
    for group in groups.values():
        if len(group) >= 3:
            yield sorted(group, key=lambda row: row[varied], reverse=varied == "chunk")


def _memory(row: Row, name: str) -> str:
    return f"{row['first_gib'][name]:.2f} / {row['later_gib'][name]:.2f}"


def _peak(row: Row, name: str) -> float:
    return max(row["first_gib"][name], row["later_gib"][name])


def _trained(row: Row) -> str:
    return {"full": "full", "lora": "LoRA"}[row["training"]]


# (section, title, how it is drawn)
SECTIONS = (
    ("step", "Beside torch", _step),
    ("gradcache", "GradCache", _gradcache),
    ("linear", "Against chunks, batch and length", _linear),
)
