"""A published checkpoint to a model directory: checked as a whole, names, dtype and shards as asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flax import nnx

from ega_jax.conversion.directories import new_directory
from ega_jax.conversion.dtypes import DtypeName, cast, dtype_told
from ega_jax.models import build, load_config
from ega_jax.models.model_files import CONFIG, copy_companions
from ega_jax.models.name_table import slots_of
from ega_jax.models.recipe import read_recipe
from ega_jax.models.safetensors_files import open_tensors, write_tensors
from ega_jax.models.weights import match
from ega_jax.training.setup import fitting_tokenizer


class Written(NamedTuple):
    """How much a conversion has written: tensors, and their bytes."""

    tensors: int
    nbytes: int


def from_hf(
    source: Path,
    target: Path,
    *,
    dtype: DtypeName | None = None,
    max_shard_bytes: int = 5_000_000_000,
    counter: Callable[[str, int], Callable[[int], None]] = lambda what, total: lambda done: None,
) -> Written:
    """Writes a published checkpoint anew, with the names that this package and every transformers since 4.45 read.

    Every tensor must be known and in place, or nothing is written. Tensors that no embedding depends on (the head) go
    from file to file. A few megabytes of weights are in memory at a time.

    Args:
      source: `config.json`, `tokenizer.json`, and safetensors in any published layout.
      target: a directory that is not there yet.
      dtype: what weights are cast to; None keeps each tensor's.
      max_shard_bytes: a new file starts where this would be passed.
      counter: makes, of what is counted and the total, the function that is told of bytes written.

    Raises:
      BadInputError: all that is wrong with `source`, or `target` is there already.
    """
    config = load_config(source)
    fitting_tokenizer(source, config)
    read_recipe(source)  # refuse a damaged one
    model = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
    slots = slots_of(model)
    tensors = match(open_tensors(source), slots, model.names, source)
    order = dict.fromkeys([*(slot.name for slot in slots), *sorted(tensors)])
    sources = [tensors[name].source(name) for name in order]
    published = json.loads((source / CONFIG).read_text())
    if dtype is not None:
        sources = [cast(each, dtype) for each in sources]
        published = dtype_told(published, sources)
    total = sum(each.nbytes for each in sources)
    with new_directory(target) as directory:
        write_tensors(
            directory, sources, max_shard_bytes=max_shard_bytes, progress=counter(f"bytes written to {target}", total)
        )
        copy_companions(source, directory)
        (directory / CONFIG).write_text(json.dumps(published, indent=2) + "\n")
    return Written(len(sources), total)
