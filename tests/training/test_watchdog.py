"""A process that hangs ends with an error that shows where."""

import subprocess
import sys
import time

HANGS = """
import time
from ega_jax.training.watchdog import Watchdog

def stuck_in_a_collective():
    time.sleep(60)

with Watchdog(0.6) as watchdog:
    time.sleep(0.8)  # it does not count before the first sign of life
    for step in range(8):
        watchdog.alive(f"in step {step}")
        time.sleep(0.1)
    print("trained", flush=True)
    watchdog.alive("in step 8")
    stuck_in_a_collective()
"""


def test_a_process_that_hangs_is_ended_and_shows_its_stacks():
    began = time.monotonic()
    process = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=50, check=False)
    assert time.monotonic() - began < 40
    assert process.returncode == 1
    assert process.stdout == "trained\n"
    assert "no sign of life for 1 s while in step 8" in process.stderr
    assert "in stuck_in_a_collective" in process.stderr


def test_a_process_that_ends_in_time_is_left_alone():
    program = HANGS.replace("    stuck_in_a_collective()\n", "")
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert (process.returncode, process.stderr) == (0, "")
