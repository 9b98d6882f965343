"""Eight virtual CPU devices for every test, set before jax is imported anywhere; and what makes tests cheaper."""

import os

import pytest

from .processes import xla_flags

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(devices=8)}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_collection_modifyitems(items):
    """The files that take minutes come first: a worker that gets one last keeps the others waiting."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


@pytest.fixture(scope="module")
def cheap_compiles():
    """A module's programs compile in half of the time and run slower: for tests that compile more than they run."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Where this worker keeps programs of one device."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def one_device(compiled, cheap_compiles):
    """A module's runs see one device, and compile no program twice.

    For tests of what no mesh changes: they train the same model again and again, and partitioned over eight devices it
    takes several times as long to compile and to run. Programs of several devices are always compiled anew: with those
    read back, a worker of the suite was aborted once.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = {"jax_compilation_cache_dir": str(compiled), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in settings}
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *backend: first)
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # it keeps the directory that it was first used with
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
