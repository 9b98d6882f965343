"""`ega-jax plan`, on a topology that every machine has."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import jax
import pytest

from ega_jax import cli
from ega_jax.errors import BadInputError
from ega_jax.plan import search, topology
from ega_jax.plan.plan import Plan
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


def test_a_plan_of_encoding(tmp_path):
    output, config = tmp_path / "plan.json", tmp_path / "micro.py"
    config.write_text(f"from {micro.__name__} import config\n")
    options = ["--encode", "--query", "64", "1", "--mesh.data", "2", "--validation.batch-size", "8"]
    assert cli.run(["plan", str(config), "--topology", "cpu:2", *options, "--output", str(output)]) == 0
    (plan,) = json.loads(output.read_text())
    assert plan["program"] == "encoding"
    assert plan["chunk_size"] == 4
    state = plan["parameter_bytes"] + plan["optimizer_bytes"]
    assert plan["peak_bytes"] > state > 2.9 * plan["parameter_bytes"]
    assert plan["flops"] > 0
    assert set(plan["sent_bytes"]) == {"all-gather over fast links"}  # every device has all vectors
    assert cli.run(["plan", str(config), "--topology", "cpu:2", *options, "--search-mesh"]) == 2


def planned(mesh, chunk, seconds, fits=True):
    return Plan("train step", "cpu:8", mesh, chunk, "auto", fits, "", 0, 0, step_seconds=(seconds / 2, seconds))


def test_the_fastest_mesh_that_fits_is_suggested(monkeypatch):
    """All the state on one device is the fastest and does not fit; "tensor" is tried where it splits as finely."""
    seconds = {(1, 1): 1.0, (2, 1): 4.0, (4, 1): 3.0, (8, 1): 5.0, (2, 2): 2.0, (1, 4): 2.5}
    tried = []

    def make(config, topology, query, target):
        sizes = config.mesh.fsdp, config.mesh.tensor
        tried.append(sizes)
        mesh = {"data": 8 // (sizes[0] * sizes[1]), "fsdp": sizes[0], "tensor": sizes[1]}
        return planned(mesh, 4, seconds[sizes], fits=sizes != (1, 1))

    monkeypatch.setattr(search, "make_plan", make)
    data = dataclasses.replace(micro.config.data, batch_size=32, sub_batch_size=16, chunk_size=2)
    config = dataclasses.replace(micro.config, data=data)
    plans = search.search_mesh(config, find_topology("cpu:8"), None, None)
    assert tried == [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (1, 4)]
    assert [(plan.mesh["fsdp"], plan.mesh["tensor"]) for plan in plans][:2] == [(2, 2), (1, 4)]
    assert plans[-1].fits is False
    odd = dataclasses.replace(config, data=dataclasses.replace(data, chunk_size=3))
    assert search.search_mesh(odd, find_topology("cpu:8"), None, None) == []


@pytest.mark.parametrize(
    ("first", "tried"), [(4, [8, 16, 4, 32]), (64, [16, 64, 32]), (16, [16, 32]), (None, [16, None, 32])]
)
def test_a_chunk_is_doubled_until_it_does_not_fit_or_halved_until_it_does(monkeypatch, first, tried):
    """16 rows fit; 8 are faster. The fastest that fits comes first."""
    mesh = {"data": 4, "fsdp": 2, "tensor": 1}

    def make(config, *_):
        chunk = config.data.chunk_size or 64
        return planned(mesh, config.data.chunk_size, 1.0 + abs(chunk - 9), fits=chunk <= 16)

    monkeypatch.setattr(search, "make_plan", make)
    config = dataclasses.replace(
        micro.config, data=dataclasses.replace(micro.config.data, batch_size=512, chunk_size=first)
    )
    found = search.search_chunk(config, None, None, None, make(config))
    assert found[0].chunk_size == tried[0]
    assert {plan.chunk_size for plan in found} == set(tried)


def test_names_of_hardware_are_checked(monkeypatch):
    with pytest.raises(BadInputError, match=r"known chips: v4, v5e"):
        find_topology("v7:4")
    for wrong in ("v5p:4xx4", "v5p", "h200:0x8", "h200:8:2", "cpu:2:"):
        with pytest.raises(BadInputError, match="unknown topology"):
            find_topology(wrong)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=r"pip install 'jax\[tpu\]"):
        find_topology("v5p:2x2x1")
    with pytest.raises(BadInputError, match=r"pip install 'jax\[cuda12\]"):
        find_topology("h200:8")
    monkeypatch.undo()
    monkeypatch.setattr(topology, "_require", lambda *_: None)
    with pytest.raises(BadInputError, match="nothing is known of how fast TPU v4 sends between slices"):
        find_topology("v4:2x2x2:2")


def test_programs_are_traced_for_the_platform_that_is_named():
    with compiling_for("tpu"):
        assert target_platform() == "tpu"
    assert target_platform() == jax.default_backend()
