"""Files appear whole or not at all; a folder belongs to one run and one configuration."""

from __future__ import annotations

import os

import pytest

from ader import workspace
from ader.errors import UserError
from ader.files import remove_leftovers, write_atomic


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "deep" / "file.txt"
    write_atomic(file, "old")

    def fail(stream):
        stream.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(file, fail)
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == ["file.txt"]
    write_atomic(file, b"new")
    assert file.read_text() == "new"


def test_leftovers_below_are_removed(tmp_path):
    kept, left = tmp_path / "parts" / "a" / "kept.pt", tmp_path / "parts" / "a" / ".kept.pt.x.tmp"
    kept.parent.mkdir(parents=True)
    for path in (kept, left):
        path.touch()
    remove_leftovers(tmp_path)
    assert kept.exists()
    assert not left.exists()


def test_one_run_at_a_time(tmp_path):
    with workspace.exclusive(tmp_path / "run"):
        with pytest.raises(UserError, match="another run is at work"), workspace.exclusive(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / ".lock").exists()
    with workspace.exclusive(tmp_path / "run"):
        pass


def _refused(folder, file):
    with workspace.exclusive(folder):
        (folder / file).touch()
        raise UserError("bad")


def test_bad_input_removes_only_what_it_made(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(UserError, match="bad"):
        _refused(there / "a" / "b", "config.yaml")
    assert os.listdir(tmp_path) == ["there"]
    assert os.listdir(there) == []
    with pytest.raises(UserError, match="bad"):
        _refused(there / "a", "checkpoint.pt")
    assert (there / "a" / "checkpoint.pt").exists()


def test_a_folder_keeps_its_owner(tmp_path):
    odd = {"lr": 1e-5, "big": 1e20, "names": ["ä", "no", "1"], "none": None, "text": "a: b\n#c"}
    workspace.claim(tmp_path, {}, odd)
    workspace.claim(tmp_path, {}, {**odd, "lr": 0.00001})
    for key, value in (("lr", 2e-5), ("names", ["ä", "no", 1]), ("none", False), ("text", "a: b")):
        with pytest.raises(UserError, match=f"other values of {key}"):
            workspace.claim(tmp_path, {}, {**odd, key: value})
    with pytest.raises(UserError, match="other values of more"):
        workspace.claim(tmp_path, {}, {**odd, "more": None})
