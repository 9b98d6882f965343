"""The published names inside of a Qwen2 decoder, wherever it stands."""

from __future__ import annotations


def qwen2_prefixes(published: str) -> tuple[tuple[str, str], ...]:
    """Prefixes (`NameTable.prefixes`) of `language_model`, which is `published` in the files."""
    return (
        ("language_model.embed_tokens.embedding", f"{published}.embed_tokens.weight"),
        ("language_model.decoder.layers", f"{published}.layers.{{}}"),
        ("language_model.norm", f"{published}.norm"),
    )
