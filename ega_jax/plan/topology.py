"""Hardware that is not there: its devices to compile for, and what its makers say of a chip."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from ega_jax.errors import BadInputError

# XLA compiles for a GPU by its own kind of description of one (stream_executor.GpuTargetConfigProto).
_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 62914560
  clock_rate_ghz: 1.98 device_memory_size: 150754820096 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H200"
"""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, by its maker's data sheet.

    Attributes:
      kind: as JAX calls it; `ega_jax.training.speed.peak_flops` knows its peak.
      platform: "tpu", "gpu" or "cpu".
      memory: bytes.
      memory_bandwidth: bytes a second.
      fast_link: bytes a second that it sends within a slice (ICI) or a host (NVLink): half of what is advertised, which
        counts both directions.
      slow_link: bytes a second that it sends between slices of TPUs or hosts of GPUs; 0 where it is not known.
    """

    kind: str
    platform: str
    memory: int
    memory_bandwidth: float
    fast_link: float
    slow_link: float


GIB, GB = 2**30, 1e9
CHIPS = {
    # cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. Between slices: v5e and v6e by the data center network's bandwidth of
    # a pod (6.4 and 25.6 Tbit/s for 256 chips), v5p by a host's 200 Gbit/s for 4 chips.
    "v4": Chip("TPU v4", "tpu", 32 * GIB, 1228 * GB, 150 * GB, 0),
    "v5e": Chip("TPU v5e", "tpu", 16 * GIB, 819 * GB, 100 * GB, 3.125 * GB),
    "v5p": Chip("TPU v5p", "tpu", 95 * GIB, 2765 * GB, 300 * GB, 6.25 * GB),
    "v6e": Chip("TPU v6e", "tpu", 32 * GIB, 1640 * GB, 200 * GB, 12.5 * GB),
    # NVIDIA's H200 data sheet; between hosts one port of 400 Gbit/s a GPU, as in a DGX.
    "h200": Chip("NVIDIA H200", "gpu", int(141 * GB), 4800 * GB, 450 * GB, 50 * GB),
    # To try the command out: no peaks are known.
    "cpu": Chip("cpu", "cpu", 0, 0, 0, 0),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Attributes:
    name: as it was given.
    chip: of which it is made.
    devices: to make a mesh of; `ega_jax.training.sharding.islands` tells which of them share fast links.
    """

    name: str
    chip: Chip
    devices: list[Any]


def find_topology(name: str) -> Topology:
    """The hardware of a name: "v5p:4x4x4" (chips of a slice), "v5e:16x16:2" (two slices), "h200:8", "h200:4x8" (hosts x
    GPUs), "cpu:8".

    Raises:
      BadInputError: it is unknown, or the package that compiles for it is not installed.
    """
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)(?::([1-9]\d*))?", name)
    chip = CHIPS.get(match[1]) if match else None
    if match is None or chip is None or (match[3] and chip.platform != "tpu"):
        raise BadInputError(
            f"unknown topology {name!r}; give v5p:4x4x4 (chips of a slice), v5e:16x16:2 (two slices), h200:8 or "
            f"h200:4x8 (hosts x GPUs), or cpu:8; known chips: {', '.join(CHIPS)}"
        )
    shape, slices = match[2], int(match[3] or 1)
    if chip.platform == "tpu":
        _require("libtpu", "tpu", name)
        if slices > 1 and not chip.slow_link:
            raise BadInputError(f"{name}: nothing is known of how fast {chip.kind} sends between slices")
        parts = {"num_slices": slices} if slices > 1 else {}
        return Topology(name, chip, _described(name, platform="tpu", topology_name=f"{match[1]}:{shape}", **parts))
    if chip.platform == "gpu":
        _require("jax_cuda12_plugin", "cuda12", name)
        hosts, local = ("1", *shape.split("x"))[-2:]
        layout = f"1x{hosts}x{local}"
        devices = _described(name, platform="cuda", topology_name="", topology=layout, target_config=_H200)
        return Topology(name, chip, devices)
    devices, count = list(jax.devices("cpu")), math.prod(map(int, shape.split("x")))
    if len(devices) < count:
        raise BadInputError(f"{name}: there are {len(devices)} CPU devices; set XLA_FLAGS, as in CONTRIBUTING.md")
    return Topology(name, chip, devices[:count])


def _described(name: str, **description: Any) -> list[Any]:
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),  # there is no TPU to ask
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_MIN_LOG_LEVEL", "3"),
        ("TPU_STDERR_LOG_LEVEL", "3"),
        ("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1"),
    ):
        os.environ.setdefault(variable, value)
    try:
        return list(topologies.get_topology_desc(**description).devices)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise BadInputError(f"{name}: the compiler knows no such topology: {str(error).splitlines()[0]}") from None


def _require(module: str, extra: str, name: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise BadInputError(
            f"{name} needs its compiler, but none of its hardware: pip install 'jax[{extra}]=={jax.__version__}'"
        )
