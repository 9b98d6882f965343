"""A run to a directory that transformers loads whole: weights under published names, and all that goes with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ega_jax.conversion.directories import new_directory
from ega_jax.conversion.dtypes import DtypeName, cast, dtype_told
from ega_jax.conversion.from_hf import Written
from ega_jax.conversion.model_card import CARD, model_card
from ega_jax.conversion.runs import TrainedRun, base_tensors, read_run
from ega_jax.models.llava_onevision_config import LlavaOnevisionConfig
from ega_jax.models.model_files import CONFIG, copy_companions
from ega_jax.models.name_table import NameTable
from ega_jax.models.safetensors_files import Source, Tensor, write_tensors
from ega_jax.models.weights import sources_of
from ega_jax.training.setup import MODEL

_PREPROCESSOR, _PROCESSOR = "preprocessor_config.json", "processor_config.json"
_PINPOINTS, _TIED = "image_grid_pinpoints", "tie_word_embeddings"


def to_hf(
    run: Path,
    target: Path,
    *,
    dtype: DtypeName | None = None,
    max_shard_bytes: int = 5_000_000_000,
    base: Path | None = None,
    base_name: str | None = None,
    counter: Callable[[str, int], Callable[[int], None]] = lambda what, total: lambda done: None,
) -> Written:
    """Writes the best checkpoint of a run as Hugging Face publishes models; adapters are merged into their kernels.

    Args:
      run: a run directory.
      target: a directory that is not there yet.
      dtype: of the weights; None gives each tensor the one that it had in the weights that the run began with, float32
        if these were random.
      max_shard_bytes: a new file starts where this would be passed.
      base: where the weights that the run began with are now; None takes the directory that the run names.
      base_name: what the model card calls them; None takes that directory's name.
      counter: makes, of what is counted and the total, the function that is told of bytes written.

    Raises:
      BadInputError: `run` is no run with a checkpoint, its base is gone, or `target` is there already.
    """
    trained = read_run(run, base)
    original = base_tensors(trained, base)
    held = sources_of(trained.model)
    tied = _is_tied(trained, original)
    sources = [*held.values(), *_not_held(trained.model.names, held, original, tied=tied)]
    sources = [cast(source, dtype or _dtype_before(source, original)) for source in sources]
    total = sum(source.nbytes for source in sources)
    with new_directory(target) as directory:
        write_tensors(
            directory, sources, max_shard_bytes=max_shard_bytes, progress=counter(f"bytes written to {target}", total)
        )
        copy_companions(run / MODEL, directory)
        trained.setup.recipe.write(directory)
        complete_processor(trained, directory)
        (directory / CARD).write_text(model_card(trained, base_name=base_name), encoding="utf-8")
        published = json.loads((run / MODEL / CONFIG).read_text())
        _write_json(directory / CONFIG, dtype_told(_changed(published, trained, tied=tied), sources))
    return Written(len(sources), total)


def complete_processor(trained: TrainedRun, directory: Path) -> None:
    """Makes transformers' processor cut the same tiles and count the same tokens as ours."""
    config, preprocessor = trained.model.config, directory / _PREPROCESSOR
    if trained.config.model.max_tiles is not None and preprocessor.is_file():
        _write_json(preprocessor, json.loads(preprocessor.read_text()) | {_PINPOINTS: _resolutions(trained)})
    if trained.config.model.max_pixels is not None:  # nothing else tells it, and QQMM may be published without the file
        published = json.loads(preprocessor.read_text()) if preprocessor.is_file() else {}
        _write_json(preprocessor, published | config.preprocessor_to_hf())
    if isinstance(config, LlavaOnevisionConfig) and not (directory / _PROCESSOR).is_file():
        _write_json(directory / _PROCESSOR, config.processor_to_hf())


def _changed(published: Mapping[str, Any], trained: TrainedRun, *, tied: bool) -> dict[str, Any]:
    """The published config of what the run made of its model."""

    def with_tie(part: Mapping[str, Any]) -> dict[str, Any]:
        inner = {key: with_tie(value) if isinstance(value, Mapping) else value for key, value in part.items()}
        return inner | ({_TIED: tied} if _TIED in part else {})

    changed = with_tie(published) | {_TIED: tied}
    if trained.config.model.max_tiles is not None:
        changed[_PINPOINTS] = _resolutions(trained)
    return changed


def _resolutions(trained: TrainedRun) -> list[list[int]]:
    return [list(resolution) for resolution in trained.model.config.image.resolutions]


def _not_held(
    names: NameTable, held: Mapping[str, Source], original: Mapping[str, Tensor], *, tied: bool
) -> Iterator[Source]:
    """The published tensors that no embedding depends on: those that the run began with, or their neutral values."""
    for name, tensor in sorted(original.items()):
        if name not in held:
            # A tied head on disk is the embedding table, which may have been trained.
            yield held[names.tied_to]._replace(name=name) if tied and name == names.head else tensor.source(name)
    for name, (value, like) in names.neutral.items():
        if name not in original:
            yield Source(name, held[like].dtype, held[like].shape, functools.partial(_filled, value, held[like]))


def _filled(value: float, like: Source) -> list[np.ndarray]:
    return [np.full(like.shape, value, like.dtype)]


def _is_tied(trained: TrainedRun, original: Mapping[str, Tensor]) -> bool:
    """Whether the exported head is the embedding table: where it was, and where there never was another."""
    names: NameTable = trained.model.names
    return trained.model.config.text.tie_word_embeddings or names.head not in original


def _dtype_before(source: Source, original: Mapping[str, Tensor]) -> DtypeName:
    before = original[source.name].dtype if source.name in original else None
    name: Any = (before or source.dtype).name
    return name


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
