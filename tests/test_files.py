"""Files appear whole or not at all, whoever else writes them."""

import errno
import os

import pytest

from ega_jax.files import is_full_disk, write_whole


def test_what_fails_in_between_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")

    def fails(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fails)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_processes_of_one_number_on_two_hosts_do_not_write_into_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path, names = tmp_path / "file", []

    def while_another_writes(temporary):
        temporary.write_text("first")
        if len(names) < 3:
            names.append(temporary)
            write_whole(path, while_another_writes)
            assert temporary.read_text() == "first"

    write_whole(path, while_another_writes, durable=True)
    assert len(set(names)) == 3
    assert all(name.parent == tmp_path and name.name.startswith(".") for name in names), "on the same disk, and hidden"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_known_by_number_and_by_words():
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    foreign = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (OSError(errno.EDQUOT, "Disk quota exceeded"), wrapped, foreign):
        assert is_full_disk(error)
    assert not is_full_disk(OSError(errno.EACCES, "Permission denied"))
