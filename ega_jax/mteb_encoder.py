"""A trained model inside the `mteb` package, whose tasks and leaderboard it can then be run on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType

from ega_jax.embedder import Embedder
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jaxtyping import Float32

WINDOW = 64
"""Batches whose items are sorted by length together: enough to share buckets, few enough for pictures to fit memory."""


class MtebEncoder(AbsEncoder):
    """An `Embedder` that `mteb.evaluate` takes as a model.

        import mteb
        from ega_jax.mteb_encoder import MtebEncoder
        mteb.evaluate(MtebEncoder("runs/demo"), mteb.get_tasks(tasks=["NFCorpus"]))

    Texts, pictures and both together are encoded as in training: pictures before the text. mteb's instruction for a
    task goes before queries, and before the inputs of tasks that know no queries; never before documents.
    """

    def __init__(
        self,
        model_name: str | Path,
        revision: str | None = None,
        *,
        device: str | None = None,
        instructions: bool = True,
        dimensions: int | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        """Loads a model; the first three parameters are those that mteb passes.

        Args:
          model_name: a run or model directory; with `embedder`, what mteb shall call it.
          revision: names the weights in mteb's cache of results: give each state of the weights its own.
          device: not for us to choose: JAX takes all that it sees. None, or an error.
          instructions: whether mteb's instructions are used.
          dimensions: of the vectors, as for `Embedder.encode`.
          embedder: a loaded model.

        Raises:
          BadInputError: the directory is neither, or damaged; or a device is given.
        """
        if device is not None:
            raise BadInputError(f"device {device!r}: JAX computes on every device it sees; choose with JAX_PLATFORMS")
        self.model = embedder or Embedder.from_pretrained(model_name)
        self.instructions = instructions
        self.dimensions = dimensions
        self.mteb_model_meta = _describe(self.model, Path(model_name).resolve().name, revision, instructions)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        batch_size: int = 32,
        **_: Any,
    ) -> Float32[np.ndarray, "n D"]:
        """Embeds what a task asks for; called by mteb.

        Args:
          inputs: batches of "text" (strings), "image" (PIL images), or both.
          task_metadata: of the task, whose instruction it gives.
          hf_split: of no concern here.
          hf_subset: likewise.
          prompt_type: whether these are queries or documents; None where the task does not tell them apart.
          batch_size: items encoded at once.

        Returns:
          One unit row an item, in order.
        """
        instruction = ""
        if self.instructions and prompt_type != PromptType.document:
            instruction = self.get_instruction(task_metadata, prompt_type)
        rows: list[np.ndarray] = []
        window: list[dict[str, Any]] = []
        for batch in inputs:
            window += _items(batch, instruction)
            if len(window) >= WINDOW * batch_size:
                rows.append(self.model.encode(window, batch_size=batch_size, dimensions=self.dimensions))
                window = []
        if window:
            rows.append(self.model.encode(window, batch_size=batch_size, dimensions=self.dimensions))
        return np.concatenate(rows)


def _items(batch: Mapping[str, Any], instruction: str) -> Iterable[dict[str, Any]]:
    """The items of a batch, as `Embedder.encode` takes them."""
    if unknown := {"audio", "video"} & set(batch):
        raise BadInputError(f"this model reads text and pictures, not {' and '.join(sorted(unknown))}")
    images = batch.get("image")
    texts = batch.get("text") or [""] * len(images or ())
    for number, text in enumerate(texts):
        item: dict[str, Any] = {"text": f"{instruction} {text}".strip() if instruction else text}
        if images is not None:
            item["image"] = images[number]
        elif not item["text"]:
            item["text"] = " "  # some corpora hold empty documents, which need a vector too
        yield item


def _describe(embedder: Embedder, name: str, revision: str | None, instructions: bool) -> ModelMeta:
    """What mteb wants to know of a model."""
    return ModelMeta(
        loader=None,
        name=f"ega-jax/{name}",  # mteb wants an organisation
        revision=revision,
        release_date=None,
        languages=None,
        n_parameters=sum(leaf.size for leaf in jax.tree.leaves(embedder.parameters)),
        memory_usage_mb=sum(leaf.nbytes for leaf in jax.tree.leaves(embedder.parameters)) / 2**20,
        max_tokens=max(embedder.buckets.tokens),
        embed_dim=embedder.width,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["JAX"],
        similarity_fn_name="cosine",
        use_instructions=instructions,
        training_datasets=None,
        modalities=["text", "image"],
    )
