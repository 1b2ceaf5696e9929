"""Work done in order by other processes, which die with this one, and whose death or standstill has a reason.

A result travels in a file in memory whose descriptor is handed over. Nothing lies in ``/dev/shm``, which has 64 MB in
many containers, and nothing is left behind, whichever process is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import cycle
from mmap import mmap
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from ader.system.errors import UserError
from ader.system.interrupt import SIGNALS, Stopped
from ader.system.parallel import die_with

AHEAD = 2  # items per worker that wait to be worked on, or to be taken
LOOK = 1.0  # seconds between two looks at a worker that is waited for
STANDSTILL = 30  # looks at one that cannot go on
ALIGNED = 64  # bytes: where arrays begin

T = TypeVar("T")


class _Failure(NamedTuple):
    """What a worker gives in place of a result."""

    error: Exception
    trace: str


def in_workers(function: Callable[[T], Any], items: Iterable[T], workers: int) -> Iterator[Any]:
    """``map`` over processes.

    Args:
        function: what it returns is pickled; arrays in it are neither copied nor limited in size.
        items: each small.
        workers: processes, at least 1; they end when the iterator is closed.

    Raises:
        Exception: what ``function`` raised, if it can be pickled, else a RuntimeError that says it.
        Stopped: a worker was killed, or stands still for ever.
    """
    started: list[_Worker] = []
    try:
        for _ in range(workers):
            started.append(_Worker(function))
        given: deque[_Worker] = deque()
        for item, worker in zip(items, cycle(started), strict=False):
            worker.give(item)
            given.append(worker)
            if len(given) > AHEAD * workers:
                yield given.popleft().take()
        while given:
            yield given.popleft().take()
    finally:
        for worker in started:
            worker.end()


class _Worker:
    """One process, and this end of the pipe to it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        # by default on Linux up to Python 3.13: nothing is pickled, nothing imported again
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(function, theirs, os.getpid()), daemon=True)
        # none may arrive before the worker is shielded from them
        before = signal.pthread_sigmask(signal.SIG_BLOCK, set(SIGNALS))
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the end of the process is the end of the pipe

    def give(self, item: Any) -> None:
        """Something to work on."""
        try:
            self.pipe.send(item)
        except OSError as error:
            raise self._death() from error

    def take(self) -> Any:
        """The result of what was given first, and not taken yet."""
        self._wait()
        try:
            sizes = self.pipe.recv()
            descriptor = recv_handle(self.pipe)
        except (EOFError, OSError, RuntimeError) as error:
            raise self._death() from error
        result = _read(descriptor, sizes)
        if isinstance(result, _Failure):
            raise result.error from RuntimeError(f"in a data-loading worker:\n{result.trace}")
        return result

    def end(self) -> None:
        """Kills it: it holds nothing that could be lost."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _wait(self) -> None:
        """Until something arrives, or the process ends; a signal to this one is answered meanwhile."""
        looks, before = 0, None
        while not wait([self.pipe, self.process.sentinel], LOOK):
            now = _stuck(self.process.pid)
            looks = looks + 1 if now is not None and now == before else 0
            before = now
            if looks >= STANDSTILL:
                raise Stopped(
                    f"a data-loading worker (process {self.process.pid}) stands still: it waits for a lock that nobody "
                    "releases, or was stopped: run the same command again to resume, with trainer.workers=0 if it "
                    "happens again"
                )

    def _death(self) -> Stopped:
        self.process.join()
        code = self.process.exitcode
        how = f"ended with status {code}"
        if code < 0:
            how = f"was killed by {({s.value: s.name for s in signal.Signals}).get(-code, -code)}"
        if code == -signal.SIGKILL:
            how += ", as the system does where memory runs out (give fewer trainer.workers or a smaller batch)"
        return Stopped(
            f"a data-loading worker (process {self.process.pid}) {how}: run the same command again to resume"
        )


def _stuck(process: int) -> int | None:
    """The processor time (ticks) of a process that cannot go on by itself: stopped, or every thread waits for a lock.

    None where it works, or reads, however slow the disk, or where the system does not tell.
    """
    folder = Path(f"/proc/{process}")
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        places = [(task / "wchan").read_text() for task in (folder / "task").iterdir()]
    except OSError:
        return None
    if fields[0] in "Tt" or all(place.startswith("futex") or "sigtimedwait" in place for place in places):
        return int(fields[11]) + int(fields[12])
    return None


def _work(function: Callable[[Any], Any], pipe: Connection, parent: int) -> None:
    """A worker's life."""
    _shield(parent)
    torch.set_num_threads(1)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):  # the run has ended
            return
        try:
            descriptor, sizes = _written(function(item))
        except BaseException as error:
            descriptor, sizes = _written(_portable(error))
        with suppress(OSError):
            pipe.send(sizes)
            send_handle(pipe, descriptor, parent)
        os.close(descriptor)


def _shield(parent: int) -> None:
    """Leaves signals to the main process: workers must go on while it finishes its step and saves.

    A terminal or a job scheduler signals all processes of a run; only SIGTERM from the parent, or the parent's death,
    ends a worker.
    """
    others = set(SIGNALS) - {signal.SIGTERM}
    for number in others:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, others)
    die_with(parent)
    if sys.platform == "darwin":  # without sigwaitinfo
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """SIGTERM is blocked, and taken here."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _portable(error: BaseException) -> _Failure:
    """An exception that arrives as it was, or is told by one of a kind that can be pickled."""
    trace = traceback.format_exc()
    for kind in (UserError, Stopped):  # theirs may take other arguments
        if isinstance(error, kind):
            return _Failure(kind(str(error)), trace)
    with suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        if isinstance(error, Exception) and type(copy) is type(error) and str(copy) == str(error):
            return _Failure(error, trace)
    return _Failure(RuntimeError("".join(traceback.format_exception_only(error)).strip()), trace)


def _written(value: Any) -> tuple[int, list[int]]:
    """The descriptor of a file without a name that holds ``value``, and the bytes of its parts."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    parts = [memoryview(head), *(array.raw() for array in arrays)]
    with _without_name() as file:
        for part in parts:
            file.seek(-file.tell() % ALIGNED, os.SEEK_CUR)
            rest = part
            while rest:
                rest = rest[file.write(rest) :]
        return os.dup(file.fileno()), [part.nbytes for part in parts]


def _without_name() -> Any:
    linux = hasattr(os, "memfd_create")
    return open(os.memfd_create("batch"), "w+b", buffering=0) if linux else tempfile.TemporaryFile(buffering=0)


def _read(descriptor: int, sizes: list[int]) -> Any:
    """What ``_written`` was given; arrays lie where the file does, and may be written to."""
    try:
        content = memoryview(mmap(descriptor, 0))
    finally:
        os.close(descriptor)
    place, parts = 0, []
    for size in sizes:
        place += -place % ALIGNED
        parts.append(content[place : place + size])
        place += size
    return pickle.loads(parts[0], buffers=parts[1:])
