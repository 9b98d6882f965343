"""The names that a backbone's parameters have in its published files, as data.

A published name follows from our own path by a backbone's `NameTable`, so a parameter that the table forgets cannot
exist. A backbone keeps its table in a file of its own (`llava_onevision_names.py`), as the class attribute `names`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from flax import nnx

from ega_jax.models.tensor_layouts import AS_IS, TRANSPOSED

if TYPE_CHECKING:
    from ega_jax.models.tensor_layouts import Layout, Shape

    ParamPath = tuple[str, ...]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


@dataclasses.dataclass(frozen=True)
class NameTable:
    """Two-way names of one backbone. Paths are joined by dots, as published names are.

    Attributes:
      prefixes: (beginning of our path, beginning of the published name) in order: the first that matches counts. "{}"
        in the published one is the layer's number, of parameters that are stacked here. What follows the beginning is
        kept, its last part renamed: kernel and scale are "weight", bias is "bias".
      passed_over: expression of the published tensors that no embedding depends on. They are never read, may be
        absent, and are copied from file to file on export.
      spellings: (expression, replacement) pairs, applied in order, that turn a name in any published layout into the
        one that `prefixes` give.
      layouts: by our path, how a tensor lies; by default kernels are transposed and all else is as it is.
      fused: published modules that hold several of ours, their outputs one after the other:
        {"attn.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj")}. Both sides are ends of the published module's name.
      head, tied_to: the published head, and the table that takes its place where they are tied.
      neutral: what of `passed_over` is written where no checkpoint has it: {name: (value, name of one of equal shape)}.
      in_memory: as `spellings`, from a canonical name to the one inside transformers 5's model. PEFT uses these.
    """

    prefixes: tuple[tuple[str, str], ...]
    passed_over: str
    spellings: tuple[tuple[str, str], ...] = ()
    layouts: Mapping[str, Layout] = dataclasses.field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    head: str = "language_model.lm_head.weight"
    tied_to: str = "language_model.model.embed_tokens.weight"
    neutral: Mapping[str, tuple[float, str]] = dataclasses.field(default_factory=dict)
    in_memory: tuple[tuple[str, str], ...] = ()

    def published(self, path: str) -> str:
        """The name of the parameter at `path`, before modules are fused.

        Raises:
          ValueError: no prefix matches.
        """
        for ours, published in self.prefixes:
            if path == ours:
                return published
            if path.startswith(ours + "."):
                middle, _, leaf = path[len(ours) :].rpartition(".")
                return f"{published}{middle}.{_LEAVES[leaf]}"
        raise ValueError(f"parameter {path!r} has no published name")

    def canonical(self, name: str) -> str:
        """The name as `prefixes` give it of a tensor in any published layout."""
        return _respelled(name, self.spellings)

    def module_in_memory(self, name: str) -> str:
        """The name that the module of a tensor with this canonical name has in transformers 5's model."""
        return _respelled(name, self.in_memory).removesuffix(".weight").removesuffix(".bias")

    def is_passed_over(self, name: str) -> bool:
        """Whether no embedding depends on the tensor with this canonical name."""
        return re.fullmatch(self.passed_over, name) is not None

    def layout(self, path: str) -> Layout:
        """How the published tensor of the parameter at `path` lies."""
        return self.layouts.get(path, TRANSPOSED if path.endswith(".kernel") else AS_IS)

    def fused_name(self, name: str) -> tuple[str, int]:
        """The tensor that holds the one called `name`, and which of its parts that is."""
        module, _, leaf = name.rpartition(".")
        for whole, parts in self.fused.items():
            for number, part in enumerate(parts):
                if module == part or module.endswith("." + part):
                    return f"{module.removesuffix(part)}{whole}.{leaf}", number
        return name, 0


def _respelled(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for expression, replacement in rules:
        name = re.sub(expression, replacement, name)
    return name


class Slot(NamedTuple):
    """One parameter's place (one layer's, if it is stacked) in the published tensors.

    Attributes:
      path: the parameter's.
      layer: the index along the leading axis of a stacked parameter, or None.
      name: of the published tensor.
      shape: of the whole published tensor.
      rows: where along its first axis the parameter lies, all of it unless modules are fused.
      layout: how it lies there.
    """

    path: ParamPath
    layer: int | None
    name: str
    shape: Shape
    rows: slice
    layout: Layout


def slots_of(model: Any) -> list[Slot]:
    """Where every parameter of a model (concrete or abstract; adapters apart) is published, in the parameters' order.

    Raises:
      ValueError: a parameter that the model's table has no name for.
    """
    table: NameTable = model.names
    wanted: list[tuple[tuple[str, int], Slot]] = []  # with the fused tensor's name and the part's number
    for parts, variable in nnx.to_flat_state(nnx.state(model)):
        if isinstance(variable, nnx.LoRAParam):
            continue
        path, shape = tuple(map(str, parts)), tuple(variable.shape)
        name, layout = table.published(".".join(path)), table.layout(".".join(path))
        stacked = "{}" in name
        each = layout.published_shape(shape[1:] if stacked else shape)
        for layer in range(shape[0]) if stacked else [None]:
            fused, part = table.fused_name(name.format(layer))
            wanted.append(((fused, part), Slot(path, layer, fused, each, slice(0, each[0]), layout)))

    placed: dict[tuple[str, int], Slot] = {}
    for _, group in itertools.groupby(sorted(wanted, key=lambda item: item[0]), key=lambda item: item[0][0]):
        members = list(group)
        total, start = sum(slot.shape[0] for _, slot in members), 0
        for key, slot in members:
            end = start + slot.shape[0]
            placed[key] = slot._replace(shape=(total, *slot.shape[1:]), rows=slice(start, end))
            start = end
    return [placed[key] for key, _ in wanted]
