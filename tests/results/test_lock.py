"""Who is at work in a folder: said to all, left by no crash, and never two at once, on any kind of disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from datetime import datetime, timezone

import pytest

from ader.results import lock
from ader.results.folder import clear, exclusive
from ader.results.lock import Busy, Holder, holder
from ader.system.errors import UserError
from ader.system.interrupt import Interrupt, Stopped

NIGHT = datetime(2026, 11, 30, 3, 10, tzinfo=timezone.utc)
THEM = Holder(host="h2", pid=123, user="eve", since=NIGHT, command="ader method=rd", machine="boot2", token="t2")


def here(host, monkeypatch):
    monkeypatch.setattr(lock, "this_machine", lambda: (host, f"boot of {host}"))


def no_locks(monkeypatch, code=errno.ENOLCK):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)


def locks_of_one_machine(monkeypatch):
    """What a machine sees alone on its mount: it always gets the lock."""
    monkeypatch.setattr("fcntl.flock", lambda *_: None)


def left_behind(folder, who, age=0.0):
    """A lock file as its holder's machine left it, or leaves it at the moment."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").write_bytes(who.as_line())
    os.utime(folder / ".lock", (time.time() - age,) * 2)


def said_by(folder):
    return json.loads((folder / ".lock").read_bytes())["pid"]


@contextmanager
def child(work):
    """A forked process that does ``work``, says so, and then waits to be killed."""
    read, write = os.pipe()
    number = os.fork()
    if number == 0:
        try:
            work()
            os.write(write, b".")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(write)
    try:
        assert os.read(read, 1) == b".", "the child failed"
        yield number
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        os.close(read)


def test_the_file_says_who(tmp_path, monkeypatch):
    here("h1", monkeypatch)
    before = datetime.now(timezone.utc)
    with exclusive(tmp_path / "run", ("ader", "method=rd")):
        said = json.loads((tmp_path / "run" / ".lock").read_text())
        assert (said["host"], said["pid"], said["command"]) == ("h1", os.getpid(), "ader method=rd")
        assert abs((datetime.fromisoformat(said["since"]) - before).total_seconds()) < 5
        assert said["user"]
        assert holder(tmp_path / "run").pid == os.getpid()
    assert (tmp_path / "run" / ".lock").read_bytes() == b""
    assert holder(tmp_path / "run") is None
    assert os.listdir(tmp_path / "run") == [".lock"]
    assert holder(tmp_path / "none") is None


def test_a_refusal_is_one_line_that_names_the_holder(tmp_path):
    left_behind(tmp_path, THEM)
    with pytest.raises(Busy) as caught, exclusive(tmp_path):
        pass
    assert caught.value.holder == THEM
    assert isinstance(caught.value, UserError)
    assert str(caught.value) == (
        f"another run is at work in {tmp_path}: pid 123 on h2 since 2026-11-30 03:10 UTC (ader method=rd): "
        "wait for it, or give run=NAME"
    )
    assert (tmp_path / ".lock").read_bytes() == THEM.as_line()
    assert os.listdir(tmp_path) == [".lock"]


def test_a_killed_holder_is_no_holder(tmp_path):
    """On its own machine that is known at once."""
    with child(exclusive(tmp_path, ("ader", "x")).__enter__) as number:
        assert holder(tmp_path).pid == number
        with pytest.raises(Busy, match=rf"pid {number} on .* \(ader x\)"), exclusive(tmp_path):
            pass
    assert Holder.of((tmp_path / ".lock").read_bytes()).pid == number
    assert holder(tmp_path) is None
    with exclusive(tmp_path) as hold:
        assert hold.notes == ()
        assert holder(tmp_path).pid == os.getpid()


def test_looking_keeps_no_one_out(tmp_path):
    """Also while someone looks again and again at what a crash left."""
    with child(exclusive(tmp_path).__enter__):
        pass

    def look():
        for _ in range(100):
            holder(tmp_path)

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(5):
        with exclusive(tmp_path):
            pass
    looking.join()


def test_a_forked_child_neither_holds_nor_leaves(tmp_path):
    inside = exclusive(tmp_path)
    inside.__enter__()
    with child(lambda: inside.__exit__(None, None, None)):  # as a worker that ends with an exception
        assert holder(tmp_path).pid == os.getpid()
        inside.__exit__(None, None, None)
        with exclusive(tmp_path):  # although the child is alive
            pass


@pytest.mark.parametrize("disk", [locks_of_one_machine, no_locks])
@pytest.mark.parametrize(("age", "alive"), [(0, True), (60, True), (-60, True), (120, False), (-3600, False)])
def test_another_machines_holder_is_judged_by_its_silence(tmp_path, monkeypatch, disk, age, alive):
    """A touch from the future says nothing: the clock was set back."""
    disk(monkeypatch)
    left_behind(tmp_path, THEM, age)
    assert holder(tmp_path) == (THEM if alive else None)
    if alive:
        with pytest.raises(Busy, match="pid 123 on h2"), exclusive(tmp_path):
            pass
    else:
        with exclusive(tmp_path) as hold:
            assert any("taken over from pid 123 on h2 since 2026-11-30 03:10 UTC" in note for note in hold.notes)
            assert said_by(tmp_path) == os.getpid()


def test_without_locks_its_own_machine_too_is_judged_by_silence(tmp_path, monkeypatch):
    no_locks(monkeypatch)
    with exclusive(tmp_path) as hold:
        assert "no locks on the disk" in hold.notes[0]
        with pytest.raises(Busy, match=f"pid {os.getpid()} "), exclusive(tmp_path):
            pass
        os.utime(tmp_path / ".lock", (time.time() - 120,) * 2)
        with exclusive(tmp_path) as second:
            assert "taken over" in second.notes[1]
    assert (tmp_path / ".lock").read_bytes() == b""


def test_the_clock_is_the_disks(tmp_path, monkeypatch):
    """This machine's is an hour late."""
    left_behind(tmp_path, THEM)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 3600)
    assert holder(tmp_path) == THEM

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # a reader who may not write has only its own
    assert holder(tmp_path) is None


def test_a_holder_shows_life_until_it_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with exclusive(tmp_path):
        os.utime(tmp_path / ".lock", (0, 0))
        until = time.monotonic() + 10
        while (tmp_path / ".lock").stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert time.time() - (tmp_path / ".lock").stat().st_mtime < 60
    assert not [thread for thread in threading.enumerate() if thread.name == "lock"]


def test_a_run_that_was_taken_over_ends(tmp_path, monkeypatch):
    """It slept for too long, and another machine went on."""
    monkeypatch.setattr(lock, "BEAT", 0.01)

    def work():
        with exclusive(tmp_path / "run"):
            left_behind(tmp_path / "run", THEM)
            until = time.monotonic() + 10
            while time.monotonic() < until:
                time.sleep(0.01)

    with pytest.raises(Stopped, match="was taken over by pid 123 on h2"), Interrupt().listening():
        work()
    assert holder(tmp_path / "run") == THEM


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 5000,
        b"null",
        b'{"host": "h"}',
        THEM.as_line().replace(b"123", b"1e999"),
        THEM.as_line().replace(b"2026-11-30T", b"x"),
        THEM.as_line()[:-20],
        b"\xff\0",
    ],
)
def test_a_lock_file_without_a_holder_is_free(tmp_path, content, monkeypatch):
    locks_of_one_machine(monkeypatch)
    (tmp_path / ".lock").write_bytes(content)
    assert holder(tmp_path) is None
    with exclusive(tmp_path):
        assert said_by(tmp_path) == os.getpid()


def test_the_rest_of_a_longer_line_is_not_read(tmp_path, monkeypatch):
    """A reader may come between the new line and the cut after it."""
    (tmp_path / ".lock").write_bytes(THEM.as_line() + b'h2", "pid": 7}\n')
    assert holder(tmp_path) == THEM


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_said(tmp_path, make):
    make(tmp_path / ".lock")
    assert holder(tmp_path) is None
    with pytest.raises(UserError, match="cannot be written"), exclusive(tmp_path):
        pass


def test_long_words_are_cut(tmp_path):
    with exclusive(tmp_path, ("ader", *["word"] * 100_000)):
        assert len(str(Busy(tmp_path, holder(tmp_path)))) < 400
        assert len((tmp_path / ".lock").read_bytes()) < 5000


@pytest.mark.parametrize("disk", [lambda _: None, no_locks])
def test_a_start_that_was_killed_in_its_turn(tmp_path, monkeypatch, disk):
    """Where locks tell that it is dead, it is in nobody's way; else only for a short time."""
    here("h1", monkeypatch)
    disk(monkeypatch)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(lock, "_read", die)
        killed.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt), exclusive(tmp_path):
            pass
    assert len(os.listdir(tmp_path)) == 2
    if disk is no_locks:
        with pytest.raises(Busy), exclusive(tmp_path):
            pass
        now = lock._now(tmp_path)
        monkeypatch.setattr(lock, "_now", lambda _: now + 2 * lock.SILENCE)
    with exclusive(tmp_path):
        pass
    assert os.listdir(tmp_path) == [".lock"]


def test_another_machines_turn_is_waited_for(tmp_path, monkeypatch):
    here("h1", monkeypatch)
    theirs = tmp_path / f".lock.{int(lock._now(tmp_path) // lock.SILENCE)}.boot of h2"
    theirs.touch()
    threading.Timer(0.1, theirs.unlink).start()
    with exclusive(tmp_path):
        pass
    theirs.touch()
    with pytest.raises(Busy), exclusive(tmp_path):
        pass


def test_clearing_a_folder_takes_the_record_first(tmp_path, monkeypatch):
    """A reader must not find a record without its tables."""
    for name in ("a.csv", ".lock", "record.json", "z.csv"):
        (tmp_path / name).touch()
    gone = []
    unlink = type(tmp_path).unlink
    monkeypatch.setattr(type(tmp_path), "unlink", lambda path: (gone.append(path.name), unlink(path)))
    clear(tmp_path)
    assert gone[0] == "record.json"
    assert os.listdir(tmp_path) == [".lock"]


DISKS = {
    "four machines whose locks reach no further": ([locks_of_one_machine] * 4, [1, 2, 3, 4]),
    "no locks": ([no_locks] * 4, [1, 1, 2, 2]),
    "some know locks": ([locks_of_one_machine, locks_of_one_machine, no_locks, no_locks], [1, 2, 3, 3]),
    "one machine": ([lambda _: None] * 4, [1, 1, 1, 1]),
}


@pytest.mark.parametrize("name", DISKS)
def test_never_two_at_once(tmp_path, monkeypatch, name):
    """Four processes fight for a folder: each that gets it must find no sign of another in it."""
    monkeypatch.setattr(lock, "PAUSE", 0.001)
    begin, inside = time.monotonic() + 0.2, tmp_path / "inside"
    started = []
    for number, (disk, machine) in enumerate(zip(*DISKS[name], strict=True)):
        started.append(os.fork())
        if started[-1] == 0:
            status = 1
            try:
                disk(monkeypatch)
                here(f"h{machine}", monkeypatch)
                rng = random.Random(number)
                time.sleep(max(0, begin - time.monotonic()))
                taken = [_fight(tmp_path / "run", inside, rng) for _ in range(30)]
                status = 10 + sum(taken)
            except FileExistsError:
                status = 2
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
    ends = [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in started]
    assert 2 not in ends, "two were in it"
    assert min(ends) >= 10, "one failed"
    assert sum(ends) >= 50
    assert os.listdir(tmp_path / "run") == [".lock"]


def _fight(folder, inside, rng):
    """Whether this process got it."""
    try:
        with exclusive(folder):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            time.sleep(rng.uniform(0, 0.002))
            inside.unlink()
        return True
    except Busy:
        return False
    finally:
        time.sleep(rng.uniform(0, 0.004))


def test_flock_alone_is_respected(tmp_path):
    """An earlier version's run does not say who it is."""
    with (tmp_path / ".lock").open("w") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(Busy, match=r"another run is at work in [^:]*: wait for it") as caught, exclusive(tmp_path):
            pass
        assert caught.value.holder is None
