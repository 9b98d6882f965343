"""Indices kept beside prepared data, one a tokenizer and image layout, so that a run starts without measuring again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ega_jax.data.index import SideIndex, SubsetIndex, index_subset
from ega_jax.data.prepared.read import PreparedTrainSubset
from ega_jax.files import write_whole

if TYPE_CHECKING:
    from ega_jax.data.processor import Processor
    from ega_jax.data.records import TrainRows

_SIDES = ("queries", "positives", "negatives")
_FIRST = ("first_positive", "first_negative")


def indexed(
    subset: TrainRows, processor: Processor, progress: Callable[[int], None] = lambda rows: None
) -> SubsetIndex:
    """The index of a subset: of prepared data as it was kept, or made and kept for the next run; of other data made.

    Args and errors are those of `index_subset`.
    """
    if not isinstance(subset, PreparedTrainSubset):
        return index_subset(subset, processor, progress)
    path = subset.home / processor.fingerprint / f"{subset.name}.safetensors"
    index = _load(path)
    if index is None:
        index = index_subset(subset.whole, processor)
        # Where the data may only be read, the next run measures again.
        with contextlib.suppress(OSError):
            _save(path, index)
    progress(len(subset))
    return index.take(subset.numbers)


def _save(path: Path, index: SubsetIndex) -> None:
    arrays = {f"{side}/{name}": values for side in _SIDES for name, values in getattr(index, side)._asdict().items()}
    arrays |= {name: getattr(index, name) for name in _FIRST}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not save_file, whose files only their owner may read.
    write_whole(path, save(arrays))


def _load(path: Path) -> SubsetIndex | None:
    """The index in a file, or None if there is none or a damaged one."""
    try:
        arrays = load_file(path)
        queries, positives, negatives = (
            SideIndex(*(arrays[f"{side}/{name}"] for name in SideIndex._fields)) for side in _SIDES
        )
        return SubsetIndex(queries, positives, negatives, *(arrays[name] for name in _FIRST))
    except (OSError, SafetensorError, KeyError):
        return None
