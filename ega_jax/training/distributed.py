"""Several processes as one run: how they find each other, and that they agree.

Which process this is, is a fact of the machine and not of the experiment: it comes from flags or the environment and
stands in no config, so that a run may go on with another number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from ega_jax.errors import BadInputError

_CONNECT_SECONDS = 300  # nodes of a job may start minutes apart
_HEARTBEAT_SECONDS = 60  # after so long without a sign a process counts as dead, and the others end


class DistributedError(RuntimeError):
    """The processes of a run did not find each other, or do not agree."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """How this process joins the others of its run."""

    join: Literal["auto", "always", "never"] = "auto"
    """"auto" joins others where SLURM, Kubernetes, a TPU's environment or the three settings below name more than one
    process; "always" asks the cluster (a TPU pod's virtual machines, which carry no variables) and fails where there is
    none."""
    coordinator: str | None = None
    """HOST:PORT where process 0 listens; or the variable JAX_COORDINATOR_ADDRESS."""
    count: int | None = None
    """Processes in all; or the variable JAX_NUM_PROCESSES."""
    index: int | None = None
    """Which of them this is, from 0; or the variable JAX_PROCESS_ID."""
    stalled_after: float = 1800.0
    """Seconds: a process that has begun to train and comes no step further for so long shows the stacks of its threads
    and ends with an error. More than a step and its compile take together."""


def join(processes: Processes, environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of the run, before anything touches a device. One process alone joins nobody.

    Raises:
      BadInputError: some of coordinator, count and index are given and some are not, or they contradict each other.
      DistributedError: the others cannot be reached, or do not start in time.
    """
    options = arguments(processes, environment)
    if options is None:
        return
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=_CONNECT_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        where = options.get("coordinator_address") or "the address that the cluster gives"
        raise DistributedError(
            f"the processes of this run did not find each other at {where}: {str(error).splitlines()[0]}. All must be "
            f"started within {_CONNECT_SECONDS} s, reach that address past any firewall, and agree on their number; "
            "a proxy variable (HTTP_PROXY, ...) in the environment can be in the way"
        ) from error


def arguments(processes: Processes, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told; None where this process is alone.

    Raises:
      BadInputError: as `join`.
    """
    if processes.join == "never":
        return None
    coordinator = processes.coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    count = processes.count if processes.count is not None else _integer(environment, "JAX_NUM_PROCESSES")
    index = processes.index if processes.index is not None else _integer(environment, "JAX_PROCESS_ID")
    if coordinator is not None and count is not None and index is not None:
        if not 0 <= index < count:
            raise BadInputError(f"processes.index {index} is none of {count} processes: they count from 0")
        if count == 1:
            return None
        return {
            "coordinator_address": coordinator,
            "num_processes": count,
            "process_id": index,
            # Without it JAX looks for a cluster all the same, and takes one device of it.
            "cluster_detection_method": "deactivate",
        }
    if count is not None or index is not None:
        given = {"coordinator": coordinator, "count": count, "index": index}
        missing = [name for name, value in given.items() if value is None]
        raise BadInputError(f"processes.{', processes.'.join(missing)} is missing: give coordinator, count and index")
    tasks = _integer(environment, "SLURM_NTASKS")
    if "SLURM_PROCID" in environment and tasks is not None and tasks > 1:
        return {"local_device_ids": slurm_devices(environment)}
    if processes.join == "always" or any(_names_several(environment, name) for name in _CLUSTER_VARIABLES):
        return {}
    return None


def slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs that this SLURM task uses, by number among those it sees; None leaves it to JAX.

    JAX itself takes one GPU a task under SLURM: of a node with eight GPUs and one task it uses one, and says nothing.
    Here a task alone on its node takes all that it sees, and tasks that were each shown GPUs of their own take those.
    """
    visible = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    on_node = _integer(environment, "SLURM_GPUS_ON_NODE") or len(visible)
    if not visible and not on_node:
        return None  # no GPUs: a CPU has no numbers to choose from
    seen = len(visible) or on_node
    tasks_here = int(environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0].split(",")[0])
    if tasks_here == 1 or seen * tasks_here == on_node:
        return list(range(seen))
    share, local = seen // tasks_here, int(environment.get("SLURM_LOCALID", "0"))
    if share * tasks_here != seen:
        raise BadInputError(
            f"SLURM runs {tasks_here} tasks on this node, which do not share its {seen} GPUs evenly: set "
            "--ntasks-per-node to 1 or to a divisor of the number of GPUs"
        )
    return list(range(local * share, (local + 1) * share))


def require_agreement(facts: Mapping[str, str]) -> None:
    """Compares facts over all processes, such as the config and the number of devices that each sees.

    Raises:
      DistributedError: they differ; names which, and the processes.
    """
    if jax.process_count() == 1:
        return
    hashes = [int.from_bytes(hashlib.sha256(value.encode()).digest()[:4], "big") for value in facts.values()]
    table = np.asarray(multihost_utils.process_allgather(np.asarray(hashes, np.uint32)))
    for name, column in zip(facts, table.T, strict=True):
        if different := np.flatnonzero(column != column[0]).tolist():
            raise DistributedError(
                f"{name} of process {_numbers(different)} differs from that of process 0 (here, in process "
                f"{jax.process_index()}: {facts[name]:.200}): start all processes with the same command, on equal "
                "machines"
            )


def agreed(names: Sequence[str]) -> list[str]:
    """The names that process 0 has, in every process: what a directory holds may look different elsewhere."""
    text = of_first(lambda: "\0".join(names))
    return text.split("\0") if text else []


@contextlib.contextmanager
def first_alone(what: str) -> Iterator[None]:
    """Process 0 runs the body first, for what writes files that all share; the others follow when it is done.

    Raises:
      DistributedError: process 0 failed, which says itself why; the others do not wait for it.
    """
    if jax.process_count() == 1:
        yield
    elif jax.process_index() == 0:
        done = False
        try:
            yield
            done = True
        finally:
            of_first(lambda: "done" if done else "")
    else:
        if not of_first(str):
            raise DistributedError(f"process 0 failed with {what}: see what it says")
        yield


def of_first(text: Callable[[], str]) -> str:
    """What `text` gives on process 0, known to all; nobody else calls it.

    Raises:
      DistributedError: it failed on process 0, which raises what it raised.
    """
    if jax.process_count() == 1:
        return text()
    content, error = b"", None
    if jax.process_index() == 0:
        try:
            content = text().encode()
        except BaseException as raised:  # told to the others before it goes on its way
            error = raised
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content) if error is None else _FAILED)))
    if error is not None:
        raise error
    if length == _FAILED:
        raise DistributedError("process 0 failed: see what it says")
    sent = np.frombuffer(content or bytes(length), np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(sent)).astype(np.uint8).tobytes().decode() if length else ""


def from_first(array: np.ndarray) -> np.ndarray:
    """Process 0's array, on all processes; theirs must have its shape and dtype."""
    return array if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(array))


_FAILED = -1  # in place of a length
_CLUSTER_VARIABLES = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "MEGASCALE_COORDINATOR_ADDRESS")


def _names_several(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "")
    return bool(value) and (name == "MEGASCALE_COORDINATOR_ADDRESS" or "," in value)


def _integer(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name)
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise BadInputError(f"the environment variable {name}={value!r} is not a number") from None


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
