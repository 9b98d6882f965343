"""The README.md of an exported model: how to embed with it, how it was trained, what it scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import ega_jax
from ega_jax.data.prompts import Control, ImageSlot, render, template_of
from ega_jax.data.records import Side
from ega_jax.evaluation import Results, markdown_table

if TYPE_CHECKING:
    from ega_jax.conversion.runs import TrainedRun

CARD = "README.md"
_IN_TRANSFORMERS = ("llava_onevision", "qwen2_vl")

_MERGED = """\
model = AutoModelForImageTextToText.from_pretrained(directory).eval()
"""
_ADAPTED = """\
base = AutoModelForImageTextToText.from_pretrained({base!r})
model = PeftModel.from_pretrained(base, directory).base_model.model.eval()
"""
_TRANSFORMERS = """\
import torch
{imports}from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

directory = "."  # where these files are
processor = AutoProcessor.from_pretrained(directory)  # needs torchvision
processor.image_processor = AutoImageProcessor.from_pretrained(directory, backend="pil")  # as in training
{load}

def embed(text, images=()):
    \"\"\"The unit vector of a text, with any number of PIL images before it.\"\"\"
    prompt = {before!r} + {image!r} * len(images) + text + {after!r}
    inputs = processor(text=prompt, images=[list(images)] if images else None, return_tensors="pt")
    with torch.no_grad():
        hidden = model.model(**inputs).last_hidden_state[0, -1]
    return torch.nn.functional.normalize(hidden.float(), dim=0)
"""
_EGA_JAX = """\
from ega_jax import Embedder

embedder = Embedder.from_pretrained(".")
vectors = embedder.encode([{"text": "a text"}, {"text": "a question", "image": "picture.png"}])
similarities = vectors @ vectors.T
"""


def model_card(run: TrainedRun, *, base_name: str | None = None, adapter: bool = False) -> str:
    """The model card of a run's weights, or of its adapters alone.

    Args:
      run: what was trained; its `results.json` gives the scores.
      base_name: what the weights that it began with are called; None takes the name of their directory.
      adapter: only the adapters were exported.

    Raises:
      BadInputError: `results.json` is damaged.
    """
    weights = run.config.model.weights
    base = base_name or (weights.name if weights is not None else None)
    what = "LoRA adapters for a multi-modal embedding model" if adapter else "A multi-modal embedding model"
    known = run.model.config.model_type in _IN_TRANSFORMERS
    parts = [
        _front_matter(base_name, "peft" if adapter else "transformers" if known else "ega_jax"),
        f"# {run.directory.resolve().name}",
        f"{what}, trained from {base or 'random weights'} by ega_jax {ega_jax.__version__}. Texts, images, and texts "
        "with images become unit vectors; the inner product of two is their similarity.",
        "## Use",
    ]
    if known:
        parts += [
            f"With transformers 5{' and peft' if adapter else ''}:",
            _code(_program(run, base or "", adapter)),
        ]
    if run.setup.recipe.base_only:
        parts.append(
            "**These weights were trained on one tile a picture** (`base_only`). transformers' processor always adds "
            "more, so embed pictures with ega_jax."
        )
    if not adapter:
        parts += ["With ega_jax:", _code(_EGA_JAX)]
    parts += [_recipe(run), _training(run), _scores(run.directory)]
    return "\n\n".join(parts) + "\n"


def _front_matter(base_name: str | None, library: str) -> str:
    lines = [f"library_name: {library}", "pipeline_tag: feature-extraction"]
    lines += [f"base_model: {json.dumps(base_name)}"] if base_name else []
    return "\n".join(["---", *lines, "tags: [ega_jax, embeddings, multi-modal]", "---"])


def _code(program: str) -> str:
    return f"```python\n{program}```"


def _program(run: TrainedRun, base: str, adapter: bool) -> str:
    before, image, after = _prompt(run)
    load = _ADAPTED.format(base=base) if adapter else _MERGED
    imports = "from peft import PeftModel\n" if adapter else ""
    return _TRANSFORMERS.format(imports=imports, load=load, before=before, image=image, after=after)


def _prompt(run: TrainedRun) -> tuple[str, str, str]:
    """The prompt in its parts: before the images, one image, after the text."""

    template = template_of(run.model.config.model_type, run.setup.recipe.system_prompt)

    def as_text(images: int) -> str:
        pieces = render(Side("\0", (Path(),) * images), template)  # no picture is opened
        return "".join(
            piece.name
            if isinstance(piece, Control)
            else template.tokens.image
            if isinstance(piece, ImageSlot)
            else piece.template + piece.user
            for piece in pieces
        )

    before, after = as_text(0).split("\0")
    image = as_text(1).removeprefix(before).partition("\0")[0]
    return before, image, after


def _recipe(run: TrainedRun) -> str:
    before, image, after = _prompt(run)
    shown = json.dumps(before + image + "TEXT" + after, ensure_ascii=False)
    tiles, pixels = run.config.model.max_tiles, run.config.model.max_pixels
    limit = "" if tiles is None else f" Pictures are cut into at most {tiles} tiles beside the whole one."
    limit += "" if pixels is None else f" Pictures have at most {pixels:,} pixels after resizing."
    narrower = ", ".join(map(str, run.setup.recipe.matryoshka_dimensions))
    dimensions = f"{run.model.config.text.hidden_size}" + (narrower and f"; or the first {narrower}, renormalised")
    return f"""## Recipe

| | |
|---|---|
| prompt | `{shown}`, with {json.dumps(image)} once for each image, or left out |
| instruction | the first part of TEXT, worded as in training |
| embedding | the final-norm hidden state of the last token of the prompt, divided by its Euclidean norm |
| dimensions | {dimensions} |

TEXT is plain text: ega_jax spells out control tokens such as `<|im_end|>` inside it; a tokenizer of transformers takes
them for control tokens.{limit}"""


def _training(run: TrainedRun) -> str:
    config = run.config
    rows = [
        ("steps", f"{run.step} of {config.steps or f'{config.epochs} epochs'}"),
        ("global batch", config.data.batch_size),
        ("data", f"`{config.data.directory}`" + (f": {', '.join(config.data.subsets)}" if config.data.subsets else "")),
        (
            "loss",
            f"EGA (arXiv 2506.02020), temperature {config.loss.temperature:g}, α {config.loss.alpha:g}, "
            f"β {config.loss.beta:g}, {config.loss.hardness} hardness, {config.loss.combine} weights"
            + (", both directions" if config.loss.symmetric else ""),
        ),
        ("learning rate", f"{config.optimizer.learning_rate:g}"),
        ("compute dtype", config.model.dtype),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## Training\n\n| | |\n|---|---|\n{table}"


def _scores(directory: Path) -> str:
    """What `ega-jax eval` measured, or that it did not."""
    path, before = directory / "results.json", directory / "results_untrained.json"
    if not path.is_file():
        return "## Scores\n\nNot evaluated: `ega-jax eval` writes them."
    results = Results.load(path)
    table = markdown_table(results, Results.load(before) if before.is_file() else None)
    return (
        f"## Scores\n\nOn {results.suite}, by MMEB's rules (hit@1 in each query's own pool, ties against the model), "
        f'in percent. "Baseline" is the same model before this training.\n\n{table.rstrip()}'
    )
