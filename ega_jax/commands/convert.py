"""`ega-jax convert`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ega_jax.commands.common import DONE, FAILED, say
from ega_jax.conversion.dtypes import DtypeName
from ega_jax.errors import BadInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromHf:
    """Check a published checkpoint and write it as a model directory.

    ega-jax convert from-hf llava-onevision-qwen2-7b-ov-hf models/llava

    ega-jax convert from-hf llava-onevision-qwen2-7b-ov-hf models/llava32 --dtype float32 --max-shard-size 2GB
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A directory with config.json, tokenizer.json and safetensors, in any layout that transformers wrote."""
    target: Annotated[Path, tyro.conf.Positional]
    """The new directory."""
    dtype: DtypeName | None = None
    """What weights are cast to; by default each tensor keeps its own."""
    max_shard_size: str = "5GB"
    """The largest file of weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToHf:
    """Write the best checkpoint of a run as a directory that transformers loads.

    ega-jax convert to-hf runs/mine exported/mine

    ega-jax convert to-hf runs/mine exported/mine --dtype bfloat16 --max-shard-size 2GB

    ega-jax convert to-hf runs/lora exported/adapter --adapter --base-name llava-hf/llava-onevision-qwen2-7b-ov-hf
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A run directory."""
    target: Annotated[Path, tyro.conf.Positional]
    """The new directory."""
    dtype: DtypeName | None = None
    """Of the weights; by default that of the weights which the run began with, float32 if these were random. Adapters
    are float32 by default."""
    max_shard_size: str = "5GB"
    """The largest file of weights."""
    base: Path | None = None
    """Where the weights that the run began with are now, if they were moved."""
    base_name: str | None = None
    """What the model card calls them, and where PEFT finds them, such as their name on the Hugging Face hub."""
    adapter: bool = False
    """Write the LoRA adapters alone, for peft, instead of merging them into the weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
    """Compare the embeddings of a model with those that another implementation gave.

    ega-jax convert verify models/llava reference.safetensors
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model directory."""
    reference: Annotated[Path, tyro.conf.Positional]
    """What docs/make_reference.py wrote."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in."""
    tolerance: float | None = None
    """The largest difference of an entry that passes; by default 1e-4 in float32 and 3e-2 in bfloat16."""
    batch_size: int = 8
    """Items encoded at once."""


def run(arguments: Sequence[str]) -> int:
    """Carries out one conversion."""
    usage = f"ega-jax convert {' | '.join(_CONVERSIONS)}; each explains itself with --help"
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: {usage}")
        return DONE
    if not arguments or arguments[0] not in _CONVERSIONS:
        raise BadInputError(f"say which way: {usage}")
    return _CONVERSIONS[arguments[0]](arguments[1:])


def _from_hf(arguments: Sequence[str]) -> int:
    from ega_jax.conversion.directories import size_in_bytes
    from ega_jax.conversion.from_hf import from_hf
    from ega_jax.training.progress import Progress

    chosen = tyro.cli(FromHf, args=arguments, prog="ega-jax convert from-hf")
    written = from_hf(
        chosen.source,
        chosen.target,
        dtype=chosen.dtype,
        max_shard_bytes=size_in_bytes(chosen.max_shard_size),
        counter=Progress().counter,
    )
    print(f"wrote {written.tensors} tensors, {written.nbytes / 1e9:.3g} GB: {chosen.target}")
    return DONE


def _to_hf(arguments: Sequence[str]) -> int:
    from ega_jax.conversion.directories import size_in_bytes
    from ega_jax.conversion.peft_adapter import to_peft
    from ega_jax.conversion.to_hf import to_hf
    from ega_jax.training.progress import Progress

    chosen = tyro.cli(ToHf, args=arguments, prog="ega-jax convert to-hf")
    if chosen.adapter:
        written = to_peft(chosen.run, chosen.target, dtype=chosen.dtype, base=chosen.base, base_name=chosen.base_name)
    else:
        written = to_hf(
            chosen.run,
            chosen.target,
            dtype=chosen.dtype,
            max_shard_bytes=size_in_bytes(chosen.max_shard_size),
            base=chosen.base,
            base_name=chosen.base_name,
            counter=Progress().counter,
        )
    print(f"wrote {written.tensors} tensors, {written.nbytes / 1e9:.3g} GB: {chosen.target}")
    return DONE


def _verify(arguments: Sequence[str]) -> int:
    from ega_jax.conversion.verify import TOLERANCES, compare, read_reference

    chosen = tyro.cli(Verify, args=arguments, prog="ega-jax convert verify")
    tolerance = TOLERANCES[chosen.dtype] if chosen.tolerance is None else chosen.tolerance
    reference = read_reference(chosen.reference)
    differences = compare(chosen.model, reference, dtype=chosen.dtype, batch_size=chosen.batch_size)
    table = Table("Item", "Images", "Cosine", "Largest difference", "", box=SIMPLE_HEAD)
    for found in differences:
        passes = found.largest <= tolerance  # not a number does not
        cells = [escape(repr(found.text[:40])), str(found.images), f"{found.cosine:.7f}", f"{found.largest:.1e}"]
        table.add_row(*cells, "equal" if passes else "DIFFERS")
    Console().print(table)
    wrong = sum(not found.largest <= tolerance for found in differences)
    if wrong:
        say(f"{wrong} of {len(differences)} items differ by more than {tolerance:g}")
        return FAILED
    print(f"all {len(differences)} items agree within {tolerance:g}")
    return DONE


_CONVERSIONS = {"from-hf": _from_hf, "to-hf": _to_hf, "verify": _verify}
