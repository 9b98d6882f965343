"""Eight virtual CPU devices for every test, set before jax is imported anywhere."""

import os
import shutil
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Many tests run the same programs, in other processes too, which inherit this: what one has compiled, all find.
compiled = Path(tempfile.gettempdir()) / f"ega_jax_tests_{os.getpid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.7")


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):  # not one of several workers, which share it
        shutil.rmtree(compiled, ignore_errors=True)
