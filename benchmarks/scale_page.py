"""Draws docs/benchmarks/scale.md and the figures of docs/scale.md from the records of scale.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from measure import table

GIB, GB = 2**30, 1e9
BATCHES = (1024, 8192, 65536)
# Of a device, beyond the batch's inputs and features: the gathered target and its gradient, 3,584 of float32 each, and
# the loss's blocks of logits. What a batch of 8,192 took more than one of 1,024 by LoRA on 8 H200, where no features
# were kept: an upper bound where they are.
LOSS_BYTES_A_ROW = 117_503
HARDWARE = {
    "v5e:4x4": "16 v5e", "v5e:8x8": "64 v5e", "v5e:16x16": "256 v5e", "v5p:4x4x4": "64 v5p", "v5p:4x8x8": "256 v5p",
    "h200:8": "8 H200", "h200:4x8": "32 H200",
}  # fmt: skip
PAGE = """# The 7B train step at scale, compiled

Made by `benchmarks/scale.py`: the trainer's own step, compiled by the real XLA for hardware that is not there, as
`ega-jax plan` does it. What the columns mean is told in [scale.md](../scale.md). Queries and targets are both in one
bucket: 1,024 tokens and one tile a row for LLaVA-OneVision-7B, 1,024 tokens and 1,024 patches for QQMM-7B. All is of
one device and one step. LoRA holds 7.6 billion frozen parameters in bfloat16; full training updates all but
the vision tower, by AdamW in float32. The mesh is data x fsdp x tensor.
"""

TIME = """
## Work and time

The step takes at least the longest part, if all parts overlap, and their sum, if none do; each at its peak.
"""
ANOTHER = """
## Another mesh, another chunk

Each beside the one above. The first plans were of eight devices that split everything, four rows at once.
"""
LARGER = """
## Larger batches, derived

Operations, traffic and bytes sent grow as the batch does, for a chunk costs what it costs. Memory grows by the batch's
inputs, by the features that a frozen tower made of its pictures (1.7 MB a row of either side of LLaVA-OneVision's,
2.4 MB of QQMM's; `data.keep_frozen_features`), and by at most 118 kB a row of the global batch: its target and the
gradient of that, on every device, and the loss's blocks of logits. The last number is of a step that kept no features,
whose peak was in the loss; with them the peak is in the second pass, and memory that was compiled grows by less. It
stands in parentheses behind what is derived from the step of 1,024 rows; all else are predictions, on the safe side.
Nothing is derived where that step is one chunk a device, which needs no second forward pass.
"""
ENCODING = """
## Encoding

What validation between steps of LoRA runs (`plan --encode`): so many rows of 1,024 tokens and a picture at once, beside
the state of the run. Rows a second are those of all devices, if no part of the work overlaps and if all does.
"""
_WHAT = ("model", "trained", "hardware")
MEMORY = (*_WHAT, "mesh", "rows a chunk", "state, GiB", "temporaries, GiB", "peak, GiB", "of", "fits")
WORK = (*_WHAT, "products, TFLOP", "memory traffic, GB", "fast links, GB", "slow links, GB", "step, s", "MFU")
ENCODERS = ("model", "hardware", "mesh", "rows a device", "peak, GiB", "of", *WORK[3:7], "rows a second")
DERIVED = (*_WHAT, "batch", "peak, GiB", "products, TFLOP", "memory traffic, GB", "sent, GB")

Record = dict[str, Any]


def draw(records: Sequence[Record], cells: Sequence[Record], docs: Path) -> None:
    """Writes the page and the figures.

    Args:
      records: what was compiled.
      cells: what is planned, compiled or not.
      docs: the directory docs/.
    """
    docs.joinpath("benchmarks/scale.md").write_text(render(records, cells))
    page = docs / "scale.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{choices(records, cells)}\n{END}{rest.partition(END)[2]}")
    for theme, ink in {"light": "#1f2328", "dark": "#e6edf3"}.items():
        figure(records, docs / f"figures/scale-{theme}.svg", ink)


BEGIN, END = "<!-- drawn by benchmarks/scale.py -->", "<!-- end -->"


def render(records: Sequence[Record], cells: Sequence[Record]) -> str:
    encoders = [record for record in records if record["program"] == "encoding"]
    records = [record for record in records if record["program"] == "train step"]
    grid = _grid(records, cells)
    compiled = [record for record in grid if "fits" in record]
    checks = [record for record in records if record["batch"] != BATCHES[0]]
    fitting = [record for record in compiled if record["fits"]]
    parts = [
        PAGE,
        f"## Memory\n\nA global batch of 1,024. {len(compiled)} of {len(grid)} are compiled.\n",
        table(MEMORY, [_memory(record) for record in grid]),
        TIME,
        table(WORK, [_time(record) for record in grid if record.get("step_seconds")]),
        ANOTHER,
        table((*WORK[:3], "mesh", "rows a chunk", "peak, GiB", *WORK[3:]), _compared(records, fitting)),
        LARGER,
        table(DERIVED, [row for record in fitting if _in_chunks(record) for row in _larger(record, checks)]),
    ]
    if encoders:
        parts += [ENCODING, table(ENCODERS, [_encoder(record) for record in encoders])]
    versions = sorted({record["jax"] for record in (*records, *encoders)})
    dates = sorted({record["date"] for record in (*records, *encoders)})
    return "\n".join(parts) + f"\n\njax {', '.join(versions)}; {dates[0]} to {dates[-1]}.\n"


def choices(records: Sequence[Record], cells: Sequence[Record]) -> str:
    """The table of docs/scale.md: one line a model, way of training and hardware."""
    rows, missing = [], dict[str, list[str]]()
    for record in _grid(records, cells):
        row = [_hardware(record), record["model"], record["trained"], f"`--mesh.fsdp {record['fsdp']}`"]
        if "fits" not in record:
            missing.setdefault(f"{record['model']} {record['trained']}", []).append(_hardware(record))
        elif not record["fits"]:
            rows.append([*row, record["chunk_size"], "does not fit", "", ""])
        else:
            hours = [_hours(seconds, 1000) for seconds in record["step_seconds"]]
            device_hours = [hour * record["devices"] for hour in hours]
            peak = f"{record['peak_bytes'] / GIB:.0f} of {record['chip_bytes'] / GIB:.0f}"
            rows.append([*row, record["chunk_size"], peak, _range(hours), _range(device_hours)])
    header = ("hardware", "model", "trained", "mesh", "rows a chunk", "peak, GiB", "hours", "device hours")
    drawn = table(header, rows)
    if missing:
        of = "; ".join(f"{what} on {', '.join(hardware)}" for what, hardware in missing.items())
        drawn += f"\n\nNot compiled yet: {of}."
    return drawn


def derive(record: Record, batch: int) -> Record:
    """What a step of a larger batch takes, from one that was compiled; same mesh and chunk."""
    times, more = batch / record["batch"], batch - record["batch"]
    inputs = (record["batch_bytes"] + record["feature_bytes"]) / record["batch"]
    return {
        "peak_bytes": record["peak_bytes"] + more * (inputs + LOSS_BYTES_A_ROW),
        "flops": record["flops"] * times,
        "memory_bytes": record["memory_bytes"] * times,
        "sent": sum(record["sent_bytes"].values()) * times,
    }


def figure(records: Sequence[Record], path: Path, ink: str) -> None:
    """Peak memory and bytes sent of LLaVA-OneVision-7B, by devices and by batch."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "svg.hashsalt": "scale", "svg.fonttype": "none", "font.size": 9, "text.color": ink, "axes.labelcolor": ink,
        "axes.edgecolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.spines.top": False,
        "axes.spines.right": False,
    })  # fmt: skip
    colours = {"v5e": "#2f81f7", "v5p": "#a371f7", "h200": "#3fb950"}
    drawn, axes = plt.subplots(2, 2, figsize=(8.5, 5.6), layout="constrained")
    fitting = [record for record in records if record["fits"] and record["model"].startswith("LLaVA")]
    for family, colour in colours.items():
        for trained, style in (("LoRA", "o-"), ("full", "s--")):
            mine = sorted(
                (r for r in fitting if r["topology"].startswith(family) and r["trained"] == trained and _usual(r)),
                key=lambda record: record["devices"],
            )
            if not mine:
                continue
            options = {"color": colour, "label": f"{family}, {trained}", "markersize": 4, "linewidth": 1}
            devices = [record["devices"] for record in mine]
            axes[0, 0].plot(devices, [r["peak_bytes"] / GIB for r in mine], style, **options)
            axes[0, 1].plot(devices, [sum(r["sent_bytes"].values()) / GB for r in mine], style, **options)
            if not (derivable := [record for record in mine if _in_chunks(record)]):
                continue
            grown = [derive(derivable[-1], batch) for batch in BATCHES]
            options["label"] = f"{derivable[-1]['devices']} {family}, {trained}"
            axes[1, 0].plot(BATCHES, [g["peak_bytes"] / GIB for g in grown], style, **options)
            axes[1, 1].plot(BATCHES, [g["sent"] / GB for g in grown], style, **options)
    for row, (label, places) in enumerate(
        (("devices, batch 1,024", (8, 16, 32, 64, 256)), ("global batch, derived", BATCHES))
    ):
        for column, what in enumerate(("peak memory of a device, GiB", "sent by a device and step, GB")):
            axis = axes[row, column]
            axis.set(xlabel=label, ylabel=what, xscale="log", yscale="log" if column else "linear")
            axis.set_xticks(places, [f"{place:,}" for place in places])
            axis.minorticks_off()
            if not column:
                axis.set_ylim(bottom=0)
            axis.legend(frameon=False, fontsize=7)
    drawn.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(drawn)


def _in_chunks(record: Record) -> bool:
    """Whether a device has more than one chunk of a side."""
    rows = record["batch"] // (record["mesh"]["data"] * record["mesh"]["fsdp"])
    return rows > record["chunk_size"]


def _usual(record: Record) -> bool:
    return record["batch"] == BATCHES[0] and not record.get("aside")


def _grid(records: Sequence[Record], cells: Sequence[Record]) -> list[Record]:
    """Every cell of the usual batch, with its record where it has one, in the order of models and hardware."""
    found = {record["name"]: record for record in records}
    usual = [found.get(cell["name"], cell) for cell in cells if _usual(cell)]
    order = list(HARDWARE)
    return sorted(
        usual, key=lambda record: (record["model"], record["trained"] == "full", order.index(record["topology"]))
    )


def _hardware(record: Record) -> str:
    return HARDWARE[record["topology"]]


def _memory(record: Record) -> list[Any]:
    row = [record["model"], record["trained"], _hardware(record)]
    if "fits" not in record:
        return [*row, *[""] * 6, "not compiled yet"]
    state = record["parameter_bytes"] + record["optimizer_bytes"]
    sizes = [_gib(size) for size in (state, record["temporary_bytes"], record["peak_bytes"], record["chip_bytes"])]
    fits = "yes" if record["fits"] else record["verdict"]
    return [*row, _mesh(record), record["chunk_size"], *sizes, fits]


def _time(record: Record) -> list[Any]:
    slow = sum(size for kind, size in record["sent_bytes"].items() if "slow" in kind)
    sent = [sum(record["sent_bytes"].values()) - slow, slow]
    work = [
        f"{record['flops'] / 1e12:,.0f}",
        f"{record['memory_bytes'] / GB:,.0f}",
        *(f"{size / GB:,.1f}" for size in sent),
    ]
    return [record["model"], record["trained"], _hardware(record), *work, _range(record["step_seconds"]),
            " to ".join(f"{share:.0%}" for share in reversed(record["mfu"]))]  # fmt: skip


def _encoder(record: Record) -> list[Any]:
    rows = [record["batch"] / seconds for seconds in reversed(record["step_seconds"])]
    sizes = [_gib(record["peak_bytes"]), _gib(record["chip_bytes"])]
    return [
        record["model"],
        _hardware(record),
        _mesh(record),
        record["chunk_size"],
        *sizes,
        *_time(record)[3:7],
        _range(rows),
    ]


def _compared(records: Sequence[Record], chosen: Sequence[Record]) -> list[list[Any]]:
    rows = []
    for other in (record for record in records if record.get("aside")):
        same = [one for one in chosen if all(one[name] == other[name] for name in ("model", "trained", "topology"))]
        for one in (other, *same):
            row = _time(one)
            rows.append([*row[:3], _mesh(one), one["chunk_size"], _gib(one["peak_bytes"]), *row[3:]])
    return rows


def _larger(record: Record, checks: Iterable[Record]) -> list[list[Any]]:
    rows = []
    for batch in BATCHES[1:]:
        found = derive(record, batch)
        same = ("model", "trained", "topology", "mesh", "chunk_size")
        check = next((c for c in checks if c["batch"] == batch and all(c[name] == record[name] for name in same)), None)
        if check is not None and check["fits"]:
            check = {**check, "sent": sum(check["sent_bytes"].values())}
        units = {
            "peak_bytes": (GIB, ".1f"),
            "flops": (1e12, ",.0f"),
            "memory_bytes": (GB, ",.0f"),
            "sent": (GB, ",.0f"),
        }
        cells = [
            f"{found[name] / unit:{form}}" + (f" ({check[name] / unit:{form}})" if check and check["fits"] else "")
            for name, (unit, form) in units.items()
        ]
        rows.append([record["model"], record["trained"], _hardware(record), f"{batch:,}", *cells])
    return rows


def _mesh(record: Record) -> str:
    return " x ".join(map(str, record["mesh"].values()))


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / GIB:.1f}"


def _hours(seconds: float, steps: int) -> float:
    return seconds * steps / 3600


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in values)
    return f"{low} to {high}"
