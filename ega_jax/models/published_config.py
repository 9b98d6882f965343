"""Reading a published `config.json`, whatever the backbone.

A published setting that the model does not carry out is refused by name, never skipped: running on with half
a configuration gives wrong embeddings without a sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ega_jax.errors import BadInputError


def expect(hf: Mapping[str, Any], name: str, value: Any, *, file: str = "config.json", where: str = "") -> None:
    """Refuses a field that differs from the one value that is built; an absent field has that value.

    Args:
      hf: the parsed file, or a part of it.
      name: the field.
      value: the one that is built.
      file, where: what the message calls the file and the part.

    Raises:
      BadInputError: the field has another value.
    """
    if (found := hf.get(name, value)) != value:
        raise BadInputError(f"{file}: {where}{name}={found!r} is not supported; only {value!r} is")
