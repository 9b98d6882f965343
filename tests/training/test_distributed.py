"""Several processes as one run: real ones over gloo, and what the environment is taken to say."""

import json
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ega_jax.errors import BadInputError
from ega_jax.training.distributed import Processes, arguments, slurm_devices

from .. import processes as processes_of
from ..colours import write_colours
from ..kill_and_resume import EXPERIMENT, TIMINGS

pytestmark = pytest.mark.minutes

# ------------------------------------------------------------------------------------------------------- real processes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processes")
    write_colours(directory / "data")
    return directory


def start(place, run, *, processes, devices):
    """Starts the micro experiment as so many processes; returns them."""
    settings = {"data.directory": place / "data", "steps": 16, "checkpoint.every": 8, "validation.every": 8}
    settings |= {"data.token_buckets": 128, "data.image_buckets": 5}  # one program to compile
    command = [sys.executable, "-m", "ega_jax", "train", str(EXPERIMENT), "--run-dir", str(place / run)]
    command += [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    compiled = place / "compiled"
    return processes_of.start(
        lambda index: command, place / run, processes=processes, devices=devices, compiled=compiled
    )


def finish(place, run, started, timeout=300):
    return processes_of.finish(place / run, started, timeout)


def metrics(place, run):
    lines = [json.loads(line) for line in (place / run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def assert_close(one, other):
    assert [sorted(line) for line in one] == [sorted(line) for line in other]
    for line, expected in zip(one, other, strict=True):
        for name, value in line.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=f"{name}: {line['step']}")


def test_two_processes_train_as_one_and_each_goes_on_where_the_other_stopped(place):
    codes, logs = finish(place, "alone", start(place, "alone", processes=1, devices=2))
    assert codes == [0], logs

    # Two processes, of which one gets a signal; then one process with all devices, stopped too; then two to the end.
    for processes, first_step in ((2, 1), (1, 5)):
        started = start(place, "moved", processes=processes, devices=2 // processes)
        wait_for_step(place / "moved", first_step, started)
        started[-1].send_signal(signal.SIGTERM)
        codes, logs = finish(place, "moved", started)
        assert codes == [75] * processes, logs
        assert "stopped by SIGTERM after step" in logs
    codes, logs = finish(place, "moved", start(place, "moved", processes=2, devices=1))
    assert codes == [0, 0], logs
    assert logs.count("trained 16 steps") == 1, "one process speaks"
    assert_close(metrics(place, "moved"), metrics(place, "alone"))


def test_one_that_is_killed_outright_ends_the_other_with_an_error(place):
    started = start(place, "killed", processes=2, devices=1)
    wait_for_step(place / "killed", 1, started)
    started[0].kill()
    codes, logs = finish(place, "killed", started, timeout=120)
    assert codes[0] == -signal.SIGKILL
    assert codes[1] not in (0, 75), logs
    assert "Gloo all-reduce failed" in logs or "another task died" in logs
    # JAX aborts a process from a thread of its own while the others run: their stacks are read as far as they can be,
    # a hundred calls at most, and in the midst of tracing a step train.py need not be among them.
    stacks = re.search(r"Thread 0x\w+ \(most recent call first\):\n  File", logs)
    assert stacks or "ega_jax/training/train.py" in logs, "stacks show where it stood"


def wait_for_step(run_dir: Path, step: int, started):
    until = time.monotonic() + 300
    while time.monotonic() < until and all(process.poll() is None for process in started):
        if (run_dir / "metrics.jsonl").exists() and f'{{"step": {step},' in (run_dir / "metrics.jsonl").read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"it did not come to step {step}")


# ------------------------------------------------------------------------------------------- what the environment says


def test_one_process_alone_joins_nobody():
    for environment in ({}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}):
        assert arguments(Processes(), environment) is None
    assert arguments(Processes(join="never"), {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None
    assert arguments(Processes(coordinator="a:1", count=1, index=0), {}) is None


def test_flags_and_variables_say_the_same():
    variables = {"JAX_COORDINATOR_ADDRESS": "node1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
    expected = {
        "coordinator_address": "node1:1234",
        "num_processes": 4,
        "process_id": 3,
        "cluster_detection_method": "deactivate",
    }
    assert arguments(Processes(), variables) == expected
    assert arguments(Processes(coordinator="node1:1234", count=4, index=3), {}) == expected


def test_clusters_are_asked():
    assert arguments(Processes(join="always"), {}) == {}
    assert arguments(Processes(), {"TPU_WORKER_HOSTNAMES": "host0,host1"}) == {}
    assert arguments(Processes(), {"MEGASCALE_COORDINATOR_ADDRESS": "host0"}) == {}
    slurm = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}
    assert arguments(Processes(), slurm) == {"local_device_ids": None}


@pytest.mark.parametrize(
    ("tasks", "on_node", "visible", "local", "expected"),
    [
        ("1(x2)", "8", None, "0", [0, 1, 2, 3, 4, 5, 6, 7]),  # one task a node: JAX alone would take one GPU
        ("8(x2)", "8", None, "3", [3]),
        ("2(x2)", "8", None, "1", [4, 5, 6, 7]),
        ("8(x2)", "8", "5", "5", [0]),  # --gpus-per-task=1 hides the others
        ("2", "4", "0,1,2,3", "1", [2, 3]),
    ],
)
def test_slurm_tasks_use_every_gpu_of_their_node(tasks, on_node, visible, local, expected):
    environment = {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_GPUS_ON_NODE": on_node, "SLURM_LOCALID": local}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    assert slurm_devices(environment) == expected


@pytest.mark.parametrize(
    ("processes", "environment", "said"),
    [
        (Processes(count=2, index=0), {}, "processes.coordinator is missing"),
        (Processes(coordinator="a:1"), {"JAX_NUM_PROCESSES": "2"}, "processes.index is missing"),
        (Processes(coordinator="a:1", count=2, index=2), {}, "index 2 is none of 2 processes"),
        (Processes(), {"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID='first' is not a number"),
    ],
)
def test_what_does_not_fit_is_refused(processes, environment, said):
    with pytest.raises(BadInputError, match=said):
        arguments(processes, environment)


def test_gpus_that_tasks_cannot_share_are_refused():
    with pytest.raises(BadInputError, match="3 tasks on this node, which do not share its 8 GPUs evenly"):
        slurm_devices({"SLURM_STEP_TASKS_PER_NODE": "3", "SLURM_GPUS_ON_NODE": "8"})
