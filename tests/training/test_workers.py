"""Work in other processes: order, exceptions of any kind, death, standstill, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ader.data.image import BadImageError
from ader.results.folder import exclusive
from ader.system.errors import UserError
from ader.system.files import try_lock
from ader.system.interrupt import Halted, Stopped
from ader.training import workers as module
from ader.training.workers import in_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere local functions would be pickled")


def _arrays(number):
    random = np.random.default_rng(number)
    big = random.integers(0, 255, (2, 3, 64, 64), np.uint8)
    return {"big": big, "turned": big.T, "none": np.zeros((0, 3)), "mask": [big[0, 0], big[0, :, ::-1]], "name": "ä"}


@pytest.mark.parametrize(("items", "workers"), [(7, 2), (1, 3), (0, 1), (20, 3)])
def test_results_arrive_in_order_as_they_were(items, workers):
    made = list(in_workers(_arrays, range(items), workers))
    assert len(made) == items
    for number, result in enumerate(made):
        expected = _arrays(number)
        assert result.keys() == expected.keys()
        for name in ("big", "turned", "none"):
            np.testing.assert_array_equal(result[name], expected[name])
            assert result[name].dtype == expected[name].dtype
        assert all(map(np.array_equal, result["mask"], expected["mask"]))
        assert result["name"] == "ä"
        result["big"][:] = 1  # one's own


class _Odd(Exception):
    """Cannot be made from its text."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def _raising(error):
    def work(item):
        raise error

    return work


class _Local(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (KeyError("x"), KeyError, "x"),
        (UserError("bad file"), UserError, "^bad file$"),
        (BadImageError(Path("a.png"), "is damaged"), UserError, "^a.png is damaged$"),
        (_Odd(1, 2), RuntimeError, "Odd: 1 and 2"),
        (type("Here", (ValueError,), {})("unknown elsewhere"), RuntimeError, "Here: unknown elsewhere"),
        (ValueError(lambda: None), RuntimeError, "ValueError: <function"),
        (_Local("over"), RuntimeError, "Local: over"),
        (SystemExit(3), RuntimeError, "SystemExit: 3"),
        (KeyboardInterrupt(), RuntimeError, "KeyboardInterrupt"),
    ],
)
def test_exceptions_of_any_kind_arrive(error, kind, text):
    with pytest.raises(kind, match=text):
        next(in_workers(_raising(error), [1], 1))


def test_a_signal_while_a_result_arrives_is_no_death_of_a_worker(monkeypatch):
    """It would be waited for, and the worker lives."""

    def interrupted(pipe):
        raise Halted("stopped by SIGHUP")

    monkeypatch.setattr(module, "recv_handle", interrupted)
    monkeypatch.setattr(module._Worker, "_death", lambda worker: AssertionError("waits for a living worker"))
    with pytest.raises(Halted, match="stopped by SIGHUP"):
        next(in_workers(_arrays, [1], 1))


def test_a_result_that_cannot_be_sent_is_an_error():
    with pytest.raises(AttributeError, match="pickle"):
        next(in_workers(lambda item: lambda: item, [1], 1))


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "was killed by SIGKILL, as the system does where memory runs out",
        ),
        (lambda: os.kill(os.getpid(), signal.SIGXCPU), "was killed by SIGXCPU: run"),
        (lambda: os._exit(3), "ended with status 3: run the same command again"),
    ],
)
def test_a_death_has_its_reason(end, text):
    with pytest.raises(Stopped, match=text):
        list(in_workers(lambda item: end() if item == 3 else item, range(9), 2))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.02)
    monkeypatch.setattr(module, "STANDSTILL", 10)


def test_a_standstill_ends(impatient):
    lock = threading.Lock()
    with lock, pytest.raises(Stopped, match="stands still: it waits for a lock that nobody releases"):
        list(in_workers(lambda item: lock.acquire(), [1], 1))
    with pytest.raises(Stopped, match="or was stopped"):
        list(in_workers(lambda item: os.kill(os.getpid(), signal.SIGSTOP), [1], 1))


def test_what_is_slow_does_not_stand_still(impatient, tmp_path):
    """It sleeps, reads what arrives late, computes, waits for a thread that does."""
    os.mkfifo(tmp_path / "late")

    def slow(item):
        if item == 0:
            time.sleep(0.5)
        elif item == 1:
            (tmp_path / "late").read_bytes()
        elif item == 2:
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                pass
        else:
            thread = threading.Thread(target=time.sleep, args=(0.5,))
            thread.start()
            thread.join()
        return item

    writer = threading.Timer(0.8, lambda: (tmp_path / "late").write_bytes(b"x"))
    writer.start()
    assert list(in_workers(slow, range(4), 1)) == [0, 1, 2, 3]
    writer.join()


def test_a_lock_is_not_the_workers(tmp_path):
    """They are killed with the run, but not in the same instant, and what else is forked may live on."""
    with exclusive(tmp_path / "run"):
        lock = try_lock(tmp_path / "lock")
        made = in_workers(lambda item: item, range(100), 2)
        next(made)
        assert try_lock(tmp_path / "lock") is None
        lock.close()
        with try_lock(tmp_path / "lock"):
            pass
    with exclusive(tmp_path / "run"):  # which they would hold
        assert next(made) == 1
    made.close()


def test_what_its_owner_closes_is_unlocked(tmp_path):
    """Though a child that was just forked, here a duplicate, has the file open still."""
    lock = try_lock(tmp_path / "lock")
    duplicate = os.dup(lock.fileno())
    lock.close()
    with try_lock(tmp_path / "lock"):
        pass
    os.close(duplicate)


def _gone(process):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_workers_die_with_their_run():
    """In the midst of whatever they do."""
    reader, writer = os.pipe()

    def tell(item):
        os.write(writer, b"%d\n" % os.getpid())
        time.sleep(100)

    run = os.fork()
    if run == 0:
        try:
            list(in_workers(tell, range(3), 3))
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        workers = [int(pipe.readline()) for _ in range(3)]
    os.kill(run, signal.SIGKILL)
    os.waitpid(run, 0)
    assert all(map(_gone, workers))


SMALL = """
import os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from ader.training.workers import in_workers
room = os.statvfs("/dev/shm")
assert room.f_blocks * room.f_frsize <= 1 << 20
for number, made in enumerate(in_workers(lambda item: np.full(3 << 20, item, np.uint8), range(6), 2)):
    assert made.min() == made.max() == number
    assert os.listdir("/dev/shm") == []
print("done")
"""


def test_batches_need_no_room_in_dev_shm():
    """As in a container, which has 64 MB there, and batches of several workers may be larger; here 1 MB."""
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("no other /dev/shm can be mounted here")
    command = [*mounted, sys.executable, "-c", SMALL, str(Path(__file__).parents[2])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == "done\n", result.stderr
