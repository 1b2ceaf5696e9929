"""Work done by several processes at once, as under torchrun, with a clear end when they wait for each other."""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar

import torch
import torch.distributed as td

#: Imported once, by the process from which the others are forked: each then starts in milliseconds. ``pytest`` because
#: a process imports what started its parent, too; what is not installed is passed over.
PRELOADED = ("ader.testing.method_checks", "ader.nets.backbone", "torch.distributed", "pytest")


def in_processes(
    world: int,
    seconds: float,
    work: Callable[..., Any],
    *arguments: Any,
    prepare: Callable[..., tuple[Any, ...]] | None = None,
) -> list[Any]:
    """What ``work(*arguments)`` returns in each of ``world`` processes that form one group (gloo, on the CPU).

    They are forked from one that has imported what the arguments need, and has prepared them.

    Args:
        world: processes.
        seconds: after which those that are still at work are ended.
        work: a function at the top of a module.
        *arguments: what it gets; they are pickled.
        prepare: such a function, which makes of these arguments others for ``work``, once for all processes. It must
            not start threads: no backward passes.

    Returns:
        Tensors, and lists and dictionaries of such, in the order of ranks.

    Raises:
        AssertionError: a process failed (the message has its traceback), or they did not come to an end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        until, hold = context.Pipe(duplex=False)
        ends = [end for _, end in pipes]
        leader = context.Process(
            target=_lead, args=(f"{folder}/meet", until, ends, work, arguments, prepare), daemon=True
        )
        leader.start()
        for end in (until, *ends):
            end.close()  # so that the death of its process is seen
        try:
            return _collect([mine for mine, _ in pipes], time.monotonic() + seconds, seconds)
        finally:
            hold.close()
            leader.join(5)
            leader.kill()
            leader.join()


def _lead(
    meeting: str,
    until: Connection,
    ends: list[Connection],
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    prepare: Callable[..., tuple[Any, ...]] | None,
) -> None:
    """The life of the process that forks the others, and ends them when nobody holds the other end of ``until``."""
    torch.set_num_threads(1)
    with suppress(OSError, AttributeError):  # freed memory stays here: to ask for it again takes much of a short life
        for option, size in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1)):
            ctypes.CDLL(None).mallopt(option, size)
    try:
        if prepare is not None:
            arguments = prepare(*arguments)
    except Exception:
        with suppress(OSError):
            ends[0].send((traceback.format_exc(), b""))
        return
    started: list[int] = []
    try:
        for rank, end in enumerate(ends):
            process = os.fork()
            if not process:
                try:
                    for other in (until, *ends):
                        if other is not end:
                            other.close()
                    _take_part(rank, len(ends), meeting, end, work, arguments)
                finally:
                    os._exit(0)
            started.append(process)
        for end in ends:
            end.close()
        wait([until])
    finally:
        for process in started:
            os.kill(process, signal.SIGKILL)
        for process in started:
            os.waitpid(process, 0)


def _collect(pipes: list[Connection], until: float, seconds: float) -> list[Any]:
    """The processes' results. The first failure ends all: the others may be waiting for the one that failed."""
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = [rank for rank in range(len(pipes)) if rank not in results]
        ready = wait([pipes[rank] for rank in waiting], max(0.0, until - time.monotonic()))
        assert ready, (
            f"process {waiting} of {len(pipes)} not done after {seconds:.0f} s: it waits for a call that others never "
            "make (every process must gather and reduce as often as the others, whatever images it has)"
        )
        for rank in waiting:
            if pipes[rank] in ready:
                try:
                    failed, content = pipes[rank].recv()
                except EOFError:
                    raise AssertionError(f"process {rank} of {len(pipes)} died without a word") from None
                assert not failed, f"process {rank} of {len(pipes)} failed:\n{failed}"
                results[rank] = torch.load(io.BytesIO(content), weights_only=True)
    return [results[rank] for rank in range(len(pipes))]


#: Of glibc's ``mallopt``.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


class Meeting:
    """Where the processes find each other, in any number of groups one after another.

    Args:
        number: of this process.
        path: of files that the processes share.
    """

    current: ClassVar[Meeting]

    def __init__(self, number: int, path: str) -> None:
        self.number, self.path, self.groups = number, path, 0

    def form(self, *members: int) -> bool:
        """Leaves the group that there is, and forms one of these processes; of one it is none, as without torchrun.
        Every process makes the same calls.

        Returns:
            Whether this process is a member.
        """
        if td.is_initialized():
            td.barrier()  # to the others, a process that has left is one that failed
            td.destroy_process_group()
        self.groups += 1
        if self.number not in members:
            return False
        if len(members) > 1:
            store = td.FileStore(f"{self.path}{self.groups}", len(members))  # type: ignore[attr-defined]  # public, but not in torch's own list
            place = members.index(self.number)
            td.init_process_group(
                "gloo", store=store, rank=place, world_size=len(members), timeout=timedelta(minutes=10)
            )
        return True


def _take_part(
    rank: int, world: int, meeting: str, end: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """The life of one process."""
    try:
        Meeting.current = Meeting(rank, meeting)
        Meeting.current.form(*range(world))
        stream = io.BytesIO()
        torch.save(work(*arguments), stream)
        end.send(("", stream.getvalue()))
        Meeting.current.form()
    except Exception:
        with suppress(OSError):  # nobody listens any more
            end.send((traceback.format_exc(), b""))
    finally:
        end.close()
