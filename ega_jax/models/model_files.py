"""What lies in a model directory beside its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from ega_jax.models.recipe import RECIPE

CONFIG = "config.json"
COMPANIONS = (
    RECIPE,
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)
"""Files that go wherever the model goes, unchanged. Never a program: what is not named here stays behind."""


def copy_companions(source: Path, target: Path) -> None:
    """Copies those that `source` has, `config.json` not among them."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
