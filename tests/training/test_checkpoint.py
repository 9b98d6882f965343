"""A checkpoint comes back bit for bit, or not at all."""

import resource
import shutil
import signal

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


def damage(folder, how):
    """Damages the largest file of a checkpoint; returns it."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif how == "truncate":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    return file


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_the_one_before_a_damaged_one_is_used_and_that_is_said(tmp_path, how):
    saved(tmp_path, 2)
    file = damage(tmp_path / "2", how)
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        with pytest.raises(BadInputError, match=r"checkpoint 2 is damaged: .*delete") as caught:
            checkpoints.restore(abstract(state_of(0)))
        assert file.name in str(caught.value)
    notes = []
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        assert checkpoints.newest_whole(notes.append) == checkpoints.latest == 1
        state = checkpoints.restore(abstract(state_of(0)))
        jax.tree.map(np.testing.assert_array_equal, state, state_of(1))
        checkpoints.save(2, state_of(2))  # the step is done again
    assert len(notes) == 1
    assert str(file) in notes[0]
    assert f"moved to {tmp_path / 'damaged' / '2'}, and the one before is used" in notes[0]
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        assert checkpoints.newest_whole(notes.append) == 2
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(abstract(state_of(0))), state_of(2))
    assert len(notes) == 1


def test_where_all_are_damaged_that_is_the_error_and_nothing_is_moved(tmp_path):
    saved(tmp_path, 2)
    files = [damage(tmp_path / "1", "flip")]
    (tmp_path / "manifests" / "2.json").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    with (
        Checkpoints(tmp_path, SETTINGS) as checkpoints,
        pytest.raises(BadInputError, match="all checkpoints are damaged") as caught,
    ):
        checkpoints.newest_whole(pytest.fail)
    assert str(files[0]) in str(caught.value)
    assert "2.json is no manifest" in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_fills_up_while_saving_keeps_the_old_one(tmp_path):
    saved(tmp_path, 1)
    large = {**state_of(2), "trained": {"a/kernel": jax.random.normal(jax.random.key(2), (512, 512)), "b": jnp.ones(5)}}
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))  # writing fails as on a full disk, in its midst
    try:
        with (
            pytest.raises(BadInputError, match=r"step 2 could not be written: .*File too large.*make room"),
            Checkpoints(tmp_path, SETTINGS) as checkpoints,
        ):
            checkpoints.save(2, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        signal.signal(signal.SIGXFSZ, handler)
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        assert checkpoints.newest_whole(pytest.fail) == 1
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(abstract(state_of(0))), state_of(1))


def test_it_comes_back_on_any_number_of_devices(tmp_path):
    """Saved and restored by meshes of 8, 4, 1 and 8 devices in turn: the same bits, in other places."""
    moments = {"mu": state_of(4)["trained"], "nu": state_of(5)["trained"]}
    expected = {**state_of(3), "optimizer": {**moments, "count": jnp.int32(3)}}
    state = expected
    for number, size in enumerate((8, 4, 1, 8), start=1):
        mesh = make_mesh(MeshSettings(data=1, fsdp=size), jax.devices()[:size])
        whole = NamedSharding(mesh, P())
        places = jax.tree.map(lambda x, place=whole: place, state)
        for tree in (places["trained"], places["optimizer"]["mu"], places["optimizer"]["nu"]):
            tree["a/kernel"] = NamedSharding(mesh, P("fsdp", None))
        with Checkpoints(tmp_path, SETTINGS) as checkpoints:
            if number > 1:
                wanted = jax.tree.map(
                    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), expected, places
                )
                state = checkpoints.restore(wanted)
                assert jax.tree.map(lambda x: x.sharding, state) == places
            else:
                state = jax.device_put(state, places)
            checkpoints.save(number, state)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


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
