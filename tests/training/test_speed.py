"""The time of a run is divided as it was spent, and restarts lose what they did again."""

from types import SimpleNamespace

import numpy as np
import pytest

from ega_jax.training import speed
from ega_jax.training.speed import NAMES, StepClock, flops_per_token, peak_flops


@pytest.fixture
def now(monkeypatch):
    class Now:
        seconds = 1000.0

        def __call__(self):
            return self.seconds

    now = Now()
    monkeypatch.setattr(speed.time, "perf_counter", now)
    monkeypatch.setattr(speed.time, "time", now)
    return now


BATCH = {
    "queries": {"attention_mask": np.array([[1, 1, 1, 0]])},
    "targets": {"attention_mask": np.array([[1, 0, 0, 0], [1, 1, 0, 0]])},
}


def clock(run_dir, *, resumed):
    return StepClock(run_dir, resumed=resumed, batch_size=8, flops_per_token=100.0)


def train(clock, now, steps):
    """Each takes 10 s: 1 for data, 2 on the host, 6 waiting for the device."""
    for _ in range(steps):
        for part, seconds in (("data", 1), ("host", 2), ("device", 6)):
            with clock.spent(part):
                now.seconds += seconds
        now.seconds += 1
        clock.stepped(BATCH)


@pytest.mark.parametrize(("ready", "part"), [(None, "data_wait"), (True, "data_wait"), (False, "device_wait")])
def test_waiting_beside_a_running_step_is_not_the_data_s_fault(tmp_path, now, ready, part):
    one = clock(tmp_path, resumed=False)
    result = None if ready is None else SimpleNamespace(is_ready=lambda: ready)
    with one.waiting_for_data(while_running=result):
        now.seconds += 4
    now.seconds += 6
    line = one.line()
    assert {name: line[f"{name}_share"] for name in ("data_wait", "host", "device_wait")} == pytest.approx(
        {"data_wait": 0, "host": 0, "device_wait": 0} | {part: 0.4}
    )


def test_shares_and_rates_leave_pauses_out(tmp_path, now, monkeypatch):
    monkeypatch.setattr(speed, "peak_flops", lambda kind: 1.5)
    one = clock(tmp_path, resumed=False)
    with one.paused():
        now.seconds += 20  # compiles
    train(one, now, 4)
    line = one.line()
    assert set(line) <= set(NAMES)
    assert line["examples_per_s"] == pytest.approx(0.8)
    assert line["tokens_per_s"] == pytest.approx(0.6)
    assert [line[f"{name}_share"] for name in ("data_wait", "host", "device_wait")] == pytest.approx([0.1, 0.2, 0.6])
    assert line["goodput"] == pytest.approx(40 / 60)
    assert line["mfu"] == pytest.approx(0.6 * 100 / (1.5 * 8))  # of eight devices
    assert 0.01 < line["host_memory_gb"] < 1000
    train(one, now, 1)
    assert one.line()["goodput"] == pytest.approx(50 / 70)


def test_goodput_counts_what_is_done_again_once(tmp_path, now):
    one = clock(tmp_path, resumed=False)
    train(one, now, 2)
    one.line()
    train(one, now, 1)
    one.save()
    train(one, now, 5)  # lost
    now.seconds += 20  # until it is started again
    two = clock(tmp_path, resumed=True)
    train(two, now, 3)
    assert two.line()["goodput"] == pytest.approx(60 / 130)
    assert "mfu" not in two.line(), "no peak is known of a CPU"
    assert clock(tmp_path, resumed=False).line()["goodput"] <= 1


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H1000", None),
        ("cpu", None),
    ],
)
def test_the_peak_is_that_of_the_chip_or_none(kind, peak):
    assert peak_flops(kind) == peak


def test_frozen_parameters_cost_four_products_a_token_and_trained_ones_six():
    state = {"trained": {"a": np.zeros((2, 3))}, "frozen": {"b": np.zeros(10)}}
    assert flops_per_token(state) == 6 * 6 + 4 * 10
