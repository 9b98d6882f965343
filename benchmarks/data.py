"""Pictures to batches, here and in a torch DataLoader with transformers' processor: the same pictures, one core each.

    python benchmarks/data.py speed --seconds 60
    python benchmarks/data.py memory --batches 10000
    python benchmarks/data.py wait --steps 100

`speed` decodes, plans, lays out and batches photographs for LLaVA-OneVision 7B, all AnyRes tiles; `memory` watches the
resident memory of the same pipeline, with small pictures, over many batches; `wait` trains the embedded example and
adds up how long its steps waited for a batch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/benchmarks/data.json"
SIZES = ((640, 480), (480, 640), (500, 375), (1024, 683))
TOKEN = "<|image_1|>"

PAGE = """# Preparing batches

Made by `benchmarks/data.py`. The same JPEG files and texts become batches for LLaVA-OneVision 7B (AnyRes, all tiles)
in one process on one core: here by `TrainingBatches`, from plain files and from prepared ones; against it a torch
`DataLoader` whose dataset opens a file with Pillow and calls `LlavaOnevisionImageProcessorPil`, and whose collation
tokenizes and pads. Both run in turn; medians of the rounds, and the median of their ratios (above 1, this project is
faster). Theirs ends in normalised float32, ours in uint8 tiles that the model normalises on the device, and the table
of features that each visual token draws on. Where other programs ran beside it, images/s are low for all alike, and the
ratios are what counts.
"""

WAIT = """The embedded example, on all cores: shares of the time of its steps, from `metrics.jsonl`, without compiling
and without the first ten steps. Batches are prepared on the cores that also train. Other programs ran beside it, which
is why rows/s are low; the shares are what counts. Aimed at: under 3 % waiting for a batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "wait", "page"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--run", type=Path, help="of wait: a run of configs/glyphs.py to read, in place of a new one")
    arguments = parser.parse_args()
    results = measure.Results(RESULTS, ("name", "batches"))
    if arguments.what == "wait":
        with tempfile.TemporaryDirectory() as home:
            results.save("wait", wait(arguments.run or Path(home) / "run", arguments.steps), measure.machine())
    elif arguments.what != "page":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        with tempfile.TemporaryDirectory() as home:
            run = speed if arguments.what == "speed" else memory
            amount = arguments.seconds if arguments.what == "speed" else arguments.batches
            results.save(arguments.what, run(Path(home), amount), measure.machine())
    (ROOT / "docs/benchmarks/data.md").write_text(page(results))


def write(directory: Path, rows: int, sizes: tuple[tuple[int, int], ...]) -> Path:
    """Rows of a question, a photograph-like picture (smooth shapes and grain, JPEG) and an answer."""
    random = np.random.default_rng(0)
    (directory / "images").mkdir(parents=True)
    (directory / "VQA").mkdir()
    lines = []
    for row in range(rows):
        size = sizes[row % len(sizes)]
        shapes = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
        grain = random.normal(0, 6, (size[1], size[0], 1))
        picture = Image.fromarray(np.clip(np.asarray(shapes) + grain, 0, 255).astype(np.uint8))
        picture.save(directory / "images" / f"{row}.jpg", quality=90)
        question = f"{TOKEN}\nRepresent the given image with the following question: what is in picture {row}?\n"
        cells = {"qry": question, "qry_image_path": f"images/{row}.jpg", "pos_text": f"thing {row}"}
        lines.append(json.dumps(cells | {"pos_image_path": ""}))
    (directory / "VQA" / "original.jsonl").write_text("\n".join(lines) + "\n")
    return directory


def speed(home: Path, seconds: float) -> list[dict]:
    import torch

    from ega_jax.data.prepared.write import prepare

    torch.set_num_threads(1)
    rows, batch = 64, 8
    source = write(home / "data", rows, SIZES)
    prepare(source, home / "prepared")
    programs = {
        "torch DataLoader": torch_epoch(source, batch),
        "ega_jax, plain files": our_epoch(source, batch, rows // batch),
        "ega_jax, prepared": our_epoch(home / "prepared", batch, rows // batch),
    }
    times = measure.interleave(programs, seconds, min_rounds=3)
    return [
        {
            "name": name,
            "images_per_s": rows / statistics.median(times[name]),
            "ratio": measure.ratio(times, "torch DataLoader", name),
            "rounds": len(times[name]),
        }
        for name in programs
    ]


def our_batches(directory: Path, batch: int, steps: int, preset: str, tokens: tuple[int, ...]):
    from ega_jax.data.buckets import Buckets
    from ega_jax.data.mmeb import read_train
    from ega_jax.data.pipeline import TrainingBatches
    from ega_jax.data.processor import Processor
    from ega_jax.data.tokenizer import train_tokenizer
    from ega_jax.models.presets import config_of

    subset = read_train(directory, "VQA", verify_images="path")
    tokenizer = train_tokenizer([subset[row].query.text for row in range(len(subset))], 512)
    processor = Processor(config_of(preset), tokenizer, max_tokens=tokens[-1])
    buckets = Buckets(tokens, processor.layout.buckets)
    return TrainingBatches(
        [subset], processor, buckets, steps=steps, batch_size=batch, sub_batch_size=batch, seed=0
    ), tokenizer


def our_epoch(directory: Path, batch: int, steps: int):
    batches, _ = our_batches(directory, batch, steps, "llava_onevision_7b", (128, 4096, 9216))

    def run() -> None:
        for step in range(steps):
            batches[step]

    return run


def torch_epoch(directory: Path, batch: int):
    import torch
    import transformers

    from ega_jax.models.presets import config_of

    image_processor = transformers.LlavaOnevisionImageProcessorPil.from_dict(
        config_of("llava_onevision_7b").preprocessor_to_hf()
    )
    rows = [json.loads(line) for line in (directory / "VQA" / "original.jsonl").read_text().splitlines()]
    _, trained = our_batches(directory, batch, 1, "llava_onevision_7b", (128, 4096, 9216))
    trained.save(directory / "tokenizer")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer" / "tokenizer.json"), pad_token="<|endoftext|>"
    )

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, number: int):
            row = rows[number]
            with Image.open(directory / row["qry_image_path"]) as picture:
                pixels = image_processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"][0]
            return row["qry"], pixels, row["pos_text"]

    def collate(items):
        queries, pixels, answers = zip(*items, strict=True)
        texts = [tokenizer(list(side), padding=True, return_tensors="pt") for side in (queries, answers)]
        most = max(len(tiles) for tiles in pixels)
        padded = torch.zeros(len(pixels), most, *pixels[0].shape[1:])
        for place, tiles in enumerate(pixels):
            padded[place, : len(tiles)] = tiles
        return texts, padded

    loader = torch.utils.data.DataLoader(Rows(), batch, shuffle=True, collate_fn=collate)

    def run() -> None:
        for _ in loader:
            pass

    return run


def memory(home: Path, count: float) -> list[dict]:
    """Resident memory after each tenth of the batches, prepared ahead on two threads as in training."""
    from ega_jax.data.pipeline import prefetched
    from ega_jax.data.prepared.write import prepare

    prepare(write(home / "data", 512, ((32, 32), (40, 24))), home / "prepared")
    steps = int(count)
    batches, _ = our_batches(home / "prepared", 8, steps, "llava_onevision_tiny", (64, 128, 256))
    iterator = prefetched(batches, threads=2, prefetch=4)
    rows = []
    for step in range(1, steps + 1):
        next(iterator)
        if step % max(steps // 10, 1) == 0:
            rows.append({"batches": step, "mib": resident() / measure.MIB})
    iterator.close()
    return rows


def wait(run_dir: Path, steps: int) -> list[dict]:
    """Shares of the training loop's time, compiling and the first ten steps (in which the queue fills) left out.

    Args:
      run_dir: of a run of the embedded example; one that is not there yet is trained.
      steps: to train then.
    """
    if not run_dir.exists():
        command = [sys.executable, "-m", "ega_jax", "train", "configs/glyphs.py", "--run-dir", str(run_dir)]
        command += ["--steps", str(steps), "--log-every", "10", "--validation.every", "None"]
        subprocess.run(command, cwd=ROOT, check=True)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line and line["step"] > 10]
    seconds = [1 / line["examples_per_s"] for line in lines]  # of equally many rows

    def share(name: str) -> float:
        return sum(line[name] * spent for line, spent in zip(lines, seconds, strict=True)) / sum(seconds)

    shares = {name: share(name) for name in ("data_wait_share", "host_share", "device_wait_share")}
    steps = lines[-1]["step"] - 10
    return [{"name": "configs/glyphs.py", "steps": steps, "rows_per_s": len(lines) / sum(seconds), **shares}]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def page(results: measure.Results) -> str:
    parts = [PAGE]
    if "speed" in results:
        lines = [
            [row["name"], f"{row['images_per_s']:.1f}", f"{row['ratio']:.2f}", row["rounds"]]
            for row in sorted(results.rows("speed"), key=lambda row: row["ratio"])
        ]
        parts += [
            f"## Speed\n\nPinned to one core: {results.origin('speed')}.\n",
            measure.table(["", "images/s", "times torch's speed", "rounds"], lines) + "\n",
        ]
    if "memory" in results:
        lines = [[f"{row['batches']:,}", f"{row['mib']:.0f}"] for row in results.rows("memory")]
        parts += [
            f"## Memory\n\nSmall pictures, batches of 8, prepared data. {results.origin('memory')}.\n",
            measure.table(["batches", "resident MiB"], lines) + "\n",
        ]
    if "wait" in results:
        shares = ("data_wait_share", "host_share", "device_wait_share")
        lines = [
            [row["name"], row["steps"], f"{row['rows_per_s']:.0f}", *(f"{row[name]:.1%}" for name in shares)]
            for row in results.rows("wait")
        ]
        header = ["", "steps", "rows/s", "waiting for a batch", "placing and dispatching", "waiting for the device"]
        parts += [
            f"## In training\n\n{WAIT}\n\n{results.origin('wait')}.\n",
            measure.table(header, lines) + "\n",
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
