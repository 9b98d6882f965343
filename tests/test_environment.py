"""The record of what a run was trained in."""

from ega_jax.environment import environment, read_environments, record_environment


def test_a_line_for_each_change_and_none_for_a_restart(tmp_path):
    path = tmp_path / "environment.jsonl"
    one, other = {"devices": "1 x cpu"}, {"devices": "8 x TPU"}
    for step, facts in ((0, one), (40, one), (50, other), (60, other)):
        record_environment(path, step, 100, facts)
    assert read_environments(path) == [
        {"from_step": 0, "to_step": 100, **one},
        {"from_step": 50, "to_step": 100, **other},
    ]
    # Killed, and begun again at an earlier checkpoint elsewhere: what was done since is done anew.
    record_environment(path, 45, 100, one)
    assert read_environments(path) == [{"from_step": 0, "to_step": 100, **one}]
    record_environment(path, 0, 100, other)
    assert read_environments(path) == [{"from_step": 0, "to_step": 100, **other}]


def test_a_damaged_line_is_left_out(tmp_path):
    path = tmp_path / "environment.jsonl"
    record_environment(path, 0, 2, environment())
    path.write_text('{"from_step": 0, "to_st\n[]\n{"to_step": 1}\n' + path.read_text())
    (line,) = read_environments(path)
    assert {"jax", "flax", "devices", "processes"} <= line.keys()
