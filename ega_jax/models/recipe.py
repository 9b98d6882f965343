"""How a model directory's vectors are made, as data: `recipe.json`, read and written with the weights.

A directory without the file, as published ones are, has the backbone's defaults.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ega_jax.errors import BadInputError

RECIPE = "recipe.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureLimit:
    """Pictures of a row that take more come at the highest of the lower resolutions that fits."""

    slots: int
    """Image slots of a row, in the backbone's unit (tiles or patches)."""
    tokens: int
    """Tokens of a row, template and visual tokens together; of a longer text the end is lost."""

    def __post_init__(self) -> None:
        if self.slots < 0 or self.tokens < 1:
            raise BadInputError(f"a picture_limit must be positive, got {self.slots} slots and {self.tokens} tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What lies between an item and its vector, besides the weights."""

    system_prompt: str | None = None
    """The system turn of every prompt; None is the backbone's own, "" leaves it out."""
    base_only: bool = False
    """Only the base tile of each picture."""
    picture_limit: PictureLimit | None = None
    """What pictures are shrunk to fit (`data.on_large_images shrink`); None leaves them as they are."""
    pooling: Literal["last"] = "last"
    """The token whose final-norm hidden state is the vector: the last one of the prompt."""
    normalization: Literal["l2"] = "l2"
    """Vectors are divided by their Euclidean norm."""
    matryoshka_dimensions: tuple[int, ...] = ()
    """Widths below the full one that the model was trained to be cut to, ascending."""

    def __post_init__(self) -> None:
        check_matryoshka_dimensions("matryoshka_dimensions", self.matryoshka_dimensions)

    def write(self, directory: Path) -> None:
        """Writes `recipe.json`, every field spelled out."""
        (directory / RECIPE).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def check_matryoshka_dimensions(name: str, dimensions: tuple[int, ...]) -> None:
    """Raises BadInputError unless they are positive, ascending and distinct."""
    if list(dimensions) != sorted(set(dimensions)) or any(width < 1 for width in dimensions):
        raise BadInputError(f"{name} must be positive and ascending, got {list(dimensions)}")


def read_recipe(directory: Path) -> Recipe:
    """The recipe of a model directory; the defaults where it has no `recipe.json`.

    Raises:
      BadInputError: a key or value of the file is unknown; names it.
    """
    path = directory / RECIPE
    if not path.is_file():
        return Recipe()
    try:
        content: Any = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
        known = [field.name for field in dataclasses.fields(Recipe)]
        if unknown := sorted(set(content) - set(known)):
            raise BadInputError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
        return TypeAdapter(Recipe).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # of `__post_init__`, which names the field itself
            raise BadInputError(f"{path}: {first['ctx']['error']}") from None
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadInputError(f"{path}: {where}: {first['msg']}, got {first['input']!r}") from None
