"""What the command sets for its process is set back."""

import jax
import pytest


@pytest.fixture(autouse=True)
def settings():
    before = {name: getattr(jax.config, name) for name in ("jax_platforms", "jax_enable_compilation_cache")}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
