"""`ega-jax plan`, on a topology that every machine has."""

from __future__ import annotations

import importlib.util
import json

import jax
import pytest

from ega_jax import cli
from ega_jax.errors import BadInputError
from ega_jax.plan.topology import find_topology
from ega_jax.platforms import compiling_for, target_platform

from .. import micro

SMALL = ["--query", "64", "1", "--target", "64", "0", "--data.batch-size", "32", "--data.sub-batch-size", "16"]


def test_a_plan_of_the_demo(tmp_path, capsys):
    output, config = tmp_path / "plan.json", tmp_path / "micro.py"
    config.write_text(f"from {micro.__name__} import config\n")
    # A batch of 32 over 4 devices, 4 rows at a time: two rounds.
    mesh = ["--mesh.data", "2", "--mesh.fsdp", "2", "--data.chunk-size", "4"]
    assert cli.run(["plan", str(config), "--topology", "cpu:4", *mesh, *SMALL, "--output", str(output)]) == 0
    (plan,) = json.loads(output.read_text())
    assert plan["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert plan["fits"] is None
    assert plan["unknown_loops"] == 0
    assert plan["optimizer_bytes"] == pytest.approx(2 * plan["parameter_bytes"], rel=0.01)  # two moments
    assert plan["peak_bytes"] > plan["parameter_bytes"] + plan["optimizer_bytes"]
    assert plan["sent_bytes"]["all-gather over fast links"] > 0
    assert plan["flops"] > 4 * 2 * plan["parameter_bytes"] / 4
    assert "cpu:4" in capsys.readouterr().out


def test_names_of_hardware_are_checked(monkeypatch):
    with pytest.raises(BadInputError, match=r"known chips: v4, v5e"):
        find_topology("v7:4")
    with pytest.raises(BadInputError, match="unknown topology"):
        find_topology("v5p:4xx4")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=r"pip install 'jax\[tpu\]"):
        find_topology("v5p:2x2x1")
    with pytest.raises(BadInputError, match=r"pip install 'jax\[cuda12\]"):
        find_topology("h200:8")


def test_programs_are_traced_for_the_platform_that_is_named():
    with compiling_for("tpu"):
        assert target_platform() == "tpu"
    assert target_platform() == jax.default_backend()
