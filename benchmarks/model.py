"""LLaVA-OneVision here and in torch transformers: the same weights, the same inputs, the same machine.

    python benchmarks/model.py small            # about 50M parameters: encode, and a whole train step
    python benchmarks/model.py 0.5b --rows 1    # the published 0.5B's sizes: encode, and a step of LoRA
    python benchmarks/model.py 0.5b --task encode --platform gpu --only jax

Each framework has a process of its own for each task, so that the memory of each is known; the two run in turn, round
after round. A run checks first that both compute the same embeddings and the same loss. What the processes do is in
`model_worker.py`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import model_worker
import numpy as np
from workers import Worker

from ega_jax.training.speed import peak_flops

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/benchmarks/model.json"
SUBJECT = ("task", "machine")
FRAMEWORKS = ("torch", "jax")
TASKS = {
    "small": ("one product", "encode", "train step"),
    "0.5b": ("encode", "lora step"),
    "7b": ("encode", "lora step"),
}

PAGE = """# LLaVA-OneVision against torch transformers

Made by `benchmarks/model.py`: the same random weights and inputs in both, each framework in a process of its own, run
in turn; medians of the rounds, and the median of their ratios torch / jax (above 1, this project is faster). A batch
is a few pictures, each of two tiles, with some words, padded; a step adds as many texts, at least two: both encoded,
the contrastive loss, all gradients, clipping, AdamW. The train step trains every parameter, the LoRA step adapters of
rank 8 on every linear map of the decoder (in torch, peft's). float32 on a CPU. Tokens are the decoder's, padding
included. GFLOP/s count the model's products (a causal query meets half of the keys; a train step is three forward
passes, a LoRA step one of the tower and two of the decoder).

One product is all of a batch's tokens times the first matrix of an MLP of the decoder, and nothing else: what the two
frameworks' kernels make of this machine. XLA's product of float32 on CPUs is the bound of everything below it.

Peak memory is the most that the process of the task ever had resident: framework, weights, compilation and all.
`model.remat` is `dots`: results of matrix products are kept, and those of attention and of what is done entry by entry
computed again on the way back, which is what torch's fused kernels do. With `none` attention's probabilities would be
kept too, and several arrays for every norm and activation.

Where "huge pages" stands beside the machine, both processes ran with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, as in
`make demo`: both take and return hundreds of megabytes every step, and in pages of 4 KiB the kernel's part of that is
much of the time.
"""


def main() -> None:
    arguments = parse()
    if arguments.worker:
        return model_worker.serve(arguments)
    if not arguments.page_only:
        compare(arguments)
    (ROOT / "docs/benchmarks/model.md").write_text(render(measure.Results(RESULTS, SUBJECT)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(TASKS))
    parser.add_argument("--task", choices=sorted({task for tasks in TASKS.values() for task in tasks}))
    parser.add_argument("--platform", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--only", choices=FRAMEWORKS, help="run one framework alone")
    parser.add_argument("--rows", type=int, default=4, help="pictures a batch")
    parser.add_argument("--seconds", type=float, default=60, help="for each task")
    parser.add_argument("--rounds", type=int, default=3, help="of each task, even if they take longer")
    parser.add_argument("--page-only", action="store_true", help="draw the page again from the kept results")
    parser.add_argument("--worker", choices=("save", *FRAMEWORKS), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(arguments: argparse.Namespace) -> None:
    """Runs the tasks in both frameworks and keeps the results."""
    frameworks = FRAMEWORKS if arguments.only is None else (arguments.only,)
    with tempfile.TemporaryDirectory() as directory:
        # Weights and inputs, from a process of its own, so that its memory is nobody's.
        subprocess.run(command("save", directory), check=True)
        for task in [arguments.task] if arguments.task else TASKS[arguments.model]:
            workers = {name: Worker(command(name, directory, f"--task={task}")) for name in frameworks}
            row = compare_task(task, workers, arguments)
            print(json.dumps(row), flush=True)
            measure.Results(RESULTS, SUBJECT).save(f"{arguments.model} {arguments.platform}", [row], row["device"])


def compare_task(task: str, workers: dict[str, Worker], arguments: argparse.Namespace) -> dict[str, Any]:
    first = {name: worker.run() for name, worker in workers.items()}
    if len(first) == 2:
        np.testing.assert_allclose(first["jax"]["value"], first["torch"]["value"], atol=1e-4)
    programs = {name: worker.run for name, worker in workers.items()}
    times = measure.interleave(programs, arguments.seconds, arguments.rounds, warm_up=False)
    known = next(iter(first.values()))
    tokens, flops = model_worker.work_of(task, arguments.model, arguments.rows)
    return {
        "task": task,
        "machine": f"{known['device']}, huge pages",
        "date": datetime.date.today().isoformat(),
        "pictures": arguments.rows,
        "rounds": len(next(iter(times.values()))),
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": measure.ratio(times, "torch", to="jax") if len(times) == 2 else None,
        "parameters": known["parameters"],
        "tokens": tokens,
        "flops": flops,
        "device": known["device"],
        "peak_gib": {name: worker.stop() for name, worker in workers.items()},
    }


def command(worker: str, directory: str, *more: str) -> list[str]:
    return [sys.executable, __file__, *sys.argv[1:], f"--worker={worker}", f"--directory={directory}", *more]


def render(results: measure.Results) -> str:
    """The page of kept results."""
    lines = [PAGE]
    for model in ("small", "0.5b", "7b"):
        for platform in ("cpu", "gpu"):
            section = f"{model} {platform}"
            if section not in results:
                continue
            lines += [f"## {model}, {platform}\n", table(results.rows(section)) + "\n"]
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    body = []
    for row in rows:
        rate = row["flops"] / row["seconds"]["jax"]
        peak = peak_flops(row["device"])
        body.append(
            [
                row["task"],
                f"{row['machine']}, {row['date']}",
                row["pictures"] if row["parameters"] else "",
                f"{row['parameters'] / 1e6:.0f} M" if row["parameters"] else "",
                f"{row['seconds']['torch']:.3g}" if "torch" in row["seconds"] else "",
                f"{row['seconds']['jax']:.3g}",
                "" if row["ratio"] is None else f"**{row['ratio']:.2f}**",
                " / ".join(f"{row['peak_gib'][name]:.1f}" for name in row["peak_gib"]),
                f"{row['tokens'] / row['seconds']['jax']:,.0f}" if row["parameters"] else "",
                f"{rate / 1e9:,.0f}" + ("" if peak is None else f" ({rate / peak:.0%} of peak)"),
                row["rounds"],
            ]
        )
    header = [
        "task",
        "machine",
        "pictures",
        "parameters",
        "torch, s",
        "jax, s",
        "ratio",
        "peak GiB, torch / jax",
        "tokens/s",
        "GFLOP/s",
        "rounds",
    ]
    return measure.table(header, body)


if __name__ == "__main__":
    main()
