"""A run's adapters as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from ega_jax.conversion.directories import new_directory
from ega_jax.conversion.dtypes import DtypeName, cast
from ega_jax.conversion.from_hf import Written
from ega_jax.conversion.model_card import CARD, model_card
from ega_jax.conversion.runs import TrainedRun, read_run
from ega_jax.conversion.to_hf import complete_processor
from ega_jax.errors import BadInputError
from ega_jax.models.lora import Lora, adapters_of
from ega_jax.models.model_files import copy_companions
from ega_jax.models.name_table import Slot, slots_of
from ega_jax.models.safetensors_files import Source, write_file
from ega_jax.models.tensor_layouts import TRANSPOSED
from ega_jax.training.roles import Role, roles_of
from ega_jax.training.setup import MODEL


def to_peft(
    run: Path,
    target: Path,
    *,
    dtype: DtypeName | None = None,
    base: Path | None = None,
    base_name: str | None = None,
) -> Written:
    """Writes the adapters of a run's best checkpoint; `peft` puts them onto the model that the run began with.

    Args:
      run: a run directory.
      target: a directory that is not there yet.
      dtype: of the adapters; None is float32, in which they are trained.
      base: where the weights that the run began with are now; None takes the directory that the run names.
      base_name: where PEFT finds that model: a directory or a name on the Hugging Face hub. None takes their
        directory.

    Raises:
      BadInputError: `run` is no run with a checkpoint, its adapters are not all that it trained, PEFT has no form for
        one of them, or `target` is there already.
    """
    trained = read_run(run, base)
    name = _base_name(trained, base_name)
    adapters = adapters_of(trained.model)
    sources: list[Source] = []
    modules: list[str] = []
    for slot in slots_of(trained.model):
        lora = adapters.get("/".join(slot.path[:-1]))
        if lora is None or slot.path[-1] != "kernel":
            continue
        if slot.rows != slice(0, slot.shape[0]):
            raise BadInputError(
                f"{slot.name} holds several linear maps, and PEFT cannot adapt one of them; leave --adapter out"
            )
        modules.append(trained.model.names.module_in_memory(slot.name))
        sources += _sources(f"base_model.model.{modules[-1]}", slot, lora)
    if dtype is not None:
        sources = [cast(source, dtype) for source in sources]
    with new_directory(target) as directory:
        write_file(directory / "adapter_model.safetensors", sources)
        copy_companions(run / MODEL, directory)
        trained.setup.recipe.write(directory)
        complete_processor(trained, directory)
        (directory / CARD).write_text(model_card(trained, base_name=name, adapter=True), encoding="utf-8")
        config = json.dumps(_config(trained, name, modules), indent=2) + "\n"
        (directory / "adapter_config.json").write_text(config)
    return Written(len(sources), sum(source.nbytes for source in sources))


def _base_name(trained: TrainedRun, base_name: str | None) -> str:
    settings = trained.config.model
    if settings.weights is None:
        raise BadInputError(
            f"{trained.directory}: began with random weights, so adapters alone are of no use; leave --adapter out"
        )
    roles = roles_of(trained.setup.functional.parameters, settings)
    if Role.ADAPTER not in roles.values():
        raise BadInputError(f"{trained.directory}: has no adapters (model.lora.rank is 0); leave --adapter out")
    if others := sorted(path for path, role in roles.items() if role is Role.TRAINED):
        raise BadInputError(
            f"{trained.directory}: trained {others[0]} and {len(others) - 1} other parameters beside the adapters, "
            "which alone would give other embeddings; leave --adapter out"
        )
    return base_name or str(settings.weights)


def _sources(module: str, slot: Slot, lora: Lora) -> Iterator[Source]:
    """Ours are x A B with A (in, rank), PEFT's are B A x with A (rank, in): as kernels are, so is each of the two."""
    down, up = lora.a[...], lora.b[...]
    (*_, inputs, rank), outputs = down.shape, up.shape[-1]
    # A convolution is followed by one of 1 x 1.
    shapes = {
        "lora_A": slot.layout.published_shape((inputs, rank)),
        "lora_B": (outputs, rank, *(1,) * (len(slot.shape) - 2)),
    }
    layouts = {"lora_A": slot.layout, "lora_B": TRANSPOSED}

    def pieces(name: str, value: jax.Array) -> list[np.ndarray]:
        one = np.asarray(value if slot.layer is None else value[slot.layer])
        return [layouts[name].write(one).reshape(shapes[name])]

    for name, value in (("lora_A", down), ("lora_B", up)):
        yield Source(
            f"{module}.{name}.weight", np.dtype(value.dtype), shapes[name], functools.partial(pieces, name, value)
        )


def _config(trained: TrainedRun, base: str, modules: list[str]) -> dict[str, object]:
    lora = trained.config.model.lora
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "task_type": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rank_stabilized,
        "target_modules": modules,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
