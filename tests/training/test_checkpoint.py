"""A checkpoint comes back bit for bit, or not at all."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ega_jax.errors import BadInputError
from ega_jax.training.checkpoint import Checkpoints
from ega_jax.training.config import CheckpointSettings, MeshSettings
from ega_jax.training.sharding import make_mesh

SETTINGS = CheckpointSettings(every=1, keep_latest=2, keep_best=1)


def state_of(seed):
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        "step": jnp.int32(seed),
        "trained": {"a/kernel": jax.random.normal(keys[0], (8, 16)), "b": jax.random.normal(keys[1], (5,))},
        "frozen": {},
    }


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def saved(directory, steps, scores=()):
    with Checkpoints(directory, SETTINGS) as checkpoints:
        for step in range(1, steps + 1):
            checkpoints.save(step, state_of(step), dict(scores).get(step))


def test_the_state_comes_back_exactly(tmp_path):
    saved(tmp_path, 3)
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        state = checkpoints.restore(abstract(state_of(0)))
    jax.tree.map(np.testing.assert_array_equal, state, state_of(3))


def test_restores_to_other_shardings_and_parts(tmp_path):
    saved(tmp_path, 1)
    mesh = make_mesh(MeshSettings(data=2, fsdp=4))
    split = NamedSharding(mesh, P("fsdp", None))
    wanted = {"trained": abstract(state_of(0))["trained"]}
    wanted["trained"]["a/kernel"] = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=split)
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        state = checkpoints.restore(wanted)
    assert set(state) == {"trained"}
    assert state["trained"]["a/kernel"].sharding == split
    np.testing.assert_array_equal(state["trained"]["a/kernel"], state_of(1)["trained"]["a/kernel"])


def test_keeps_the_latest_and_the_best(tmp_path):
    saved(tmp_path, 6, {1: 0.2, 2: 0.9, 3: 0.5, 5: 0.4})
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (6, 2)
        state = checkpoints.restore(abstract(state_of(0)), step=2)
    assert int(state["step"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "5", "6"]
    assert sorted(p.stem for p in (tmp_path / "manifests").iterdir()) == ["2", "5", "6"]


def test_without_scores_the_best_is_the_latest(tmp_path):
    saved(tmp_path, 2)
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        assert checkpoints.best == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found_and_named(tmp_path, damage):
    saved(tmp_path, 2)
    file = max((f for f in (tmp_path / "2").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        with pytest.raises(BadInputError, match=r"checkpoint 2 is damaged: .*delete") as caught:
            checkpoints.restore(abstract(state_of(0)))
        assert file.name in str(caught.value)
    shutil.rmtree(tmp_path / "2")  # what the message says to do
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        state = checkpoints.restore(abstract(state_of(0)))
    jax.tree.map(np.testing.assert_array_equal, state, state_of(1))


def test_what_a_kill_leaves_behind_is_harmless(tmp_path):
    saved(tmp_path, 2)
    (tmp_path / "manifests" / "2.json").unlink()  # killed between orbax's rename and our hashing
    half = tmp_path / "3.orbax-checkpoint-tmp"  # killed while orbax was writing
    shutil.copytree(tmp_path / "2", half)
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        assert checkpoints.latest == 2
        state = checkpoints.restore(abstract(state_of(0)))
    jax.tree.map(np.testing.assert_array_equal, state, state_of(2))
    assert (tmp_path / "manifests" / "2.json").exists()


def test_a_reader_leaves_alone_what_is_being_written(tmp_path):
    saved(tmp_path, 1)
    half = tmp_path / "2.orbax-checkpoint-tmp"  # a training process is writing it
    shutil.copytree(tmp_path / "1", half)
    before = sorted(half.rglob("*"))
    with Checkpoints(tmp_path, SETTINGS, reading=True) as checkpoints:
        checkpoints.restore({"trained": abstract(state_of(0))["trained"]}, step=checkpoints.best)
    assert sorted(half.rglob("*")) == before


def test_no_checkpoint_is_told(tmp_path):
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        assert checkpoints.latest is None
        with pytest.raises(BadInputError, match="holds no checkpoint"):
            checkpoints.restore(abstract(state_of(0)))
    saved(tmp_path, 1)
    with Checkpoints(tmp_path, SETTINGS) as checkpoints, pytest.raises(BadInputError, match=r"no checkpoint 7.*\[1\]"):
        checkpoints.restore(abstract(state_of(0)), step=7)


def test_a_full_disk_or_budget_is_told_before_anything_is_written(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))
    tight = CheckpointSettings(every=1, disk_budget_gb=1e-6)
    with Checkpoints(tmp_path, tight) as checkpoints, pytest.raises(BadInputError, match="disk_budget_gb"):
        checkpoints.save(2, state_of(2))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 50, 50))
    with Checkpoints(tmp_path, SETTINGS) as checkpoints, pytest.raises(BadInputError, match="make room"):
        checkpoints.save(2, state_of(2))
    assert sorted(tmp_path.rglob("*")) == before
