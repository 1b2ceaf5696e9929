"""Files appear whole or not at all; a folder belongs to one run and one configuration."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from ader.results import folder as workspace
from ader.system import files
from ader.system.errors import UserError
from ader.system.files import check_regular, half_made, remove_leftovers, replace_together, write_atomic


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


def _seen(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("moment", range(1, 11))
def test_files_that_belong_together_are_never_mixed(tmp_path, monkeypatch, moment):
    """Wherever it fails: the old ones, the new ones, or no last one."""
    old, new = ({name: f"{age} {name}" for name in ("a", "b", "last")} for age in ("old", "new"))
    replace_together(tmp_path, old)
    calls = []

    def failing(function):
        def call(*given):
            calls.append(function)
            if len(calls) == moment:
                raise OSError("disk gone")
            return function(*given)

        return call

    monkeypatch.setattr(files, "_temporary", failing(files._temporary))
    monkeypatch.setattr(os, "replace", failing(os.replace))
    monkeypatch.setattr(files, "_sync_folder", failing(files._sync_folder))
    with pytest.raises(OSError, match="disk gone"):
        replace_together(tmp_path, new)
    seen = _seen(tmp_path)
    assert seen in (old, new) or "last" not in seen
    assert seen.keys() <= old.keys()
    monkeypatch.undo()
    replace_together(tmp_path, new)
    assert _seen(tmp_path) == new


def test_leftovers_below_are_removed(tmp_path):
    kept, left = tmp_path / "parts" / "a" / "kept.pt", tmp_path / "parts" / "a" / ".kept.pt.x.tmp"
    kept.parent.mkdir(parents=True)
    for path in (kept, left):
        path.touch()
    remove_leftovers(tmp_path)
    assert kept.exists()
    assert not left.exists()


def test_young_leftovers_may_be_anothers(tmp_path):
    for name, age in ((".old.x.tmp", 4000), (".young.x.tmp", 10)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    remove_leftovers(tmp_path, older_than=3600)
    assert os.listdir(tmp_path) == [".young.x.tmp"]


def test_a_half_made_folder_goes_with_its_process(tmp_path):
    """One that was killed left it for the next to remove; another's, at work, stays."""
    (tmp_path / ".set.killed.tmp" / "deep").mkdir(parents=True)
    (tmp_path / ".set.killed.tmp" / "deep" / "file").touch()
    with half_made(tmp_path / "set") as mine:
        (mine / "file").touch()
        with half_made(tmp_path / "set") as other:
            assert {path.name for path in tmp_path.iterdir()} == {mine.name, other.name}
        os.rename(mine, tmp_path / "set")
    assert os.listdir(tmp_path) == ["set"]
    assert os.listdir(tmp_path / "set") == ["file"]


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


def test_only_files_are_opened(tmp_path, monkeypatch):
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path in (fifo, link):
        with pytest.raises(UserError, match=f"{path} is a FIFO, not a file: "):
            check_regular(path)
    with pytest.raises(UserError, match="is a device, not a file: "):
        check_regular(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the names of sockets are short
        listener.bind("socket")
        with pytest.raises(UserError, match="is a socket, not a file: "):
            check_regular(tmp_path / "socket")
    (tmp_path / "file").write_text("content")
    for path in (tmp_path / "file", tmp_path, tmp_path / "missing", tmp_path / ("x" * 300), Path("null\0")):
        check_regular(path)
