"""The launchers, against programs that play `ega-jax`, SLURM and gcloud."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"


@pytest.fixture
def stage(tmp_path):
    """Runs a launcher where the programs that it calls are played."""

    class Stage:
        def __init__(self):
            self.environment = {
                **os.environ,
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "RETRY_SECONDS": "0",
                "HOME": "/nowhere",
            }

        def play(self, name, script):
            path = tmp_path / name
            path.write_text(f'#!/bin/bash\necho {name} "$@" >>{tmp_path}/calls\ncd {tmp_path}\n{script}\n')
            path.chmod(0o755)
            return path

        def start(self, *command, **environment):
            environment = {**self.environment, **environment}
            return subprocess.Popen(
                command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )

        def run(self, *command, **environment):
            process = self.start(*command, **environment)
            out, error = process.communicate(timeout=60)
            return process.returncode, out, error

        @property
        def calls(self):
            path = tmp_path / "calls"
            return path.read_text().splitlines() if path.exists() else []

    return Stage()


# Ends with 75 until it has been called three times.
THIRD_TIME_LUCKY = "echo >>tries; (($(wc -l <tries) < 3)) && exit 75; exit 0"


def test_a_host_starts_again_what_stopped_in_good_order(stage):
    program = stage.play("ega-jax", THIRD_TIME_LUCKY)
    code, _, error = stage.run("launch/multi_gpu.sh", "my config.py", "--steps", "3", EGA_JAX=str(program))
    assert code == 0
    assert stage.calls == ["ega-jax train my config.py --steps 3"] * 3
    assert error.count("starting again") == 2


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_host_passes_on_how_it_ended(stage, code):
    program = stage.play("ega-jax", f"exit {code}")
    assert stage.run("launch/multi_gpu.sh", "c.py", EGA_JAX=str(program))[0] == code
    assert len(stage.calls) == 1


def test_a_host_that_is_told_to_stop_does(stage):
    program = stage.play("ega-jax", "trap 'sleep 0.2; exit 75' TERM; touch ready; sleep 30 >/dev/null 2>&1 & wait")
    process = stage.start("launch/multi_gpu.sh", "c.py", EGA_JAX=str(program))
    until = time.monotonic() + 30
    while not (program.parent / "ready").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert len(stage.calls) == 1, "not started again"


def test_without_arguments_it_tells_what_it_takes(stage):
    code, out, _ = stage.run("launch/multi_gpu.sh")
    assert code == 2
    assert "launch/multi_gpu.sh configs/llava_onevision_7b.py --run-dir" in out


@pytest.mark.parametrize(("code", "requeued"), [(0, 0), (75, 1), (137, 1), (143, 1), (1, 0), (2, 0)])
def test_slurm_puts_back_what_stopped_or_was_killed(stage, code, requeued):
    stage.play("srun", f"exit {code}")
    stage.play("scontrol", "")
    environment = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "17", "EGA_JAX": "ega-jax"}
    assert stage.run("launch/slurm.sbatch", "a b.py", "--steps", "3", **environment)[0] == code
    assert stage.calls[0] == "srun --kill-on-bad-exit=1 ega-jax train a b.py --steps 3"
    assert stage.calls[1:] == ["scontrol requeue 17"] * requeued


def test_slurm_does_not_put_back_for_ever_what_is_killed(stage):
    stage.play("srun", "exit 137")
    environment = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "20", "EGA_JAX": "x"}
    assert stage.run("launch/slurm.sbatch", "c.py", **environment)[0] == 137
    assert len(stage.calls) == 1


POD = ["launch/tpu_pod.sh", "--name", "ega", "--zone", "z", "--type", "v5p-128"]


def test_a_pod_says_what_it_would_do(stage):
    stage.play("gcloud", "exit 99")
    code, out, error = stage.run(
        *POD, "--spot", "--setup", "mount x", "--dry-run", "--", "c.py", "--run-dir", "/mnt/a b"
    )
    assert (code, error) == (0, "")
    assert not stage.calls
    commands = [shlex.split(line) for line in out.splitlines()]
    assert [command[4] for command in commands if command[0] == "gcloud"] == [
        "create",
        "scp",
        "ssh",
        "ssh",
        "ssh",
        "delete",
    ]
    assert {"--accelerator-type", "v5p-128", "v2-alpha-tpuv5", "--spot"} <= set(commands[0])
    train = commands[5][commands[5].index("--command") + 1]
    assert shlex.split(train.split("&&")[-1]) == [
        ".venv/bin/ega-jax", "train", "c.py", "--run-dir", "/mnt/a b", "--processes.join", "always",
    ]  # fmt: skip


def test_a_pod_that_is_taken_away_is_made_anew(stage):
    """The first training is cut off with its slice (PREEMPTED), the second stops in good order, the third ends."""
    stage.play(
        "gcloud",
        """
        case "$4" in
          describe) cat state 2>/dev/null || exit 1 ;;
          create) echo READY >state ;;
          delete) rm state ;;
          ssh) [[ "$*" == *"ega-jax train"* ]] || exit 0
               echo >>tries
               case $(wc -l <tries) in
                 1) echo PREEMPTED >state; exit 255 ;;
                 2) exit 75 ;;
               esac ;;
        esac""",
    )
    code, _, error = stage.run(*POD, "--spot", "--", "c.py")
    assert code == 0, error
    verbs = [call.split()[4] for call in stage.calls]
    assert [verb for verb in verbs if verb in ("create", "delete")] == ["create", "delete", "create", "delete"]
    assert sum("ega-jax train" in call for call in stage.calls) == 3


def test_a_pod_whose_training_fails_is_left_as_it_is(stage):
    stage.play("gcloud", '[[ "$4" == describe ]] && echo READY; [[ "$*" != *"ega-jax train"* ]] || exit 1')
    code, _, error = stage.run(*POD, "--spot", "--", "c.py")
    assert code == 1
    assert "failed with exit code 1" in error
    assert not [call for call in stage.calls if " delete " in call or " create " in call]


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--zone", "z"], "--name, --zone and --type"), (["--nmae", "x"], "unknown option --nmae")]
)
def test_a_pod_refuses_what_it_does_not_know(stage, arguments, said):
    code, _, error = stage.run("launch/tpu_pod.sh", *arguments)
    assert code == 2
    assert said in error


def test_the_jobset_runs_the_command_and_restarts_all_but_bad_input():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    shell, flag, command = pod["containers"][0]["command"]
    assert (shell, flag) == ("bash", "-c")
    assert "exec ega-jax train configs/llava_onevision_7b.py" in command
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    assert [rule["action"] for rule in jobset["spec"]["failurePolicy"]["rules"]] == ["FailJobSet", "RestartJobSet"]
    assert job["parallelism"] == job["completions"]
    assert pod["terminationGracePeriodSeconds"] >= 120
