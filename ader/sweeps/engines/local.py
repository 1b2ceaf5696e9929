"""``launcher=local``: this machine, a process for each job, each with a GPU or with cores of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal

from pydantic import Field

from ader.sweeps.engine import Ended, Started, check_gpu
from ader.sweeps.task import Running, Task, environment, live, threads_environment
from ader.system.errors import UserError, some
from ader.system.launch import cores

#: Imported once, by the process from which all jobs are forked: each then starts at once.
PRELOADED = ("ader.runs.run", "ader.nets.backbone", "ader.config.compose", "torch.utils.tensorboard")

#: Cores of a job where there is no GPU, unless other numbers are asked for.
CORES_EACH = 4

Slots = Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]
Threads = Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]
Gpu = Annotated[int, Field(ge=0, le=1023)]


class Engine:
    """Jobs in slots of one machine.

    Without GPUs a job has ``threads`` threads. With them each job sees one GPU only, as number 0; more slots than GPUs
    put several jobs on each.

    Args:
        slots: jobs at once; ``auto``: one per GPU, without any one per four cores.
        gpus: the numbers of those to use, as this process counts them; ``auto``: all; ``[]``: none.
        threads: of each job; ``auto``: this process's cores, divided by the slots.

    Raises:
        UserError: there is no such GPU.
    """

    def __init__(
        self, slots: Slots = "auto", gpus: Literal["auto"] | list[Gpu] = "auto", threads: Threads = "auto"
    ) -> None:
        self.gpus = visible_gpus(gpus)
        automatic = len(self.gpus) or max(1, cores() // CORES_EACH)
        self.slots: int = automatic if slots == "auto" else slots
        self.threads = max(1, cores() // self.slots) if threads == "auto" else threads
        self._free = list(range(self.slots))
        self._running: dict[int, tuple[int, Running]] = {}  # by number: slot and task
        self._begun: list[Started] = []
        self._context = multiprocessing.get_context("forkserver")

    def open(self, folder: Path) -> None:
        """Starts the process from which the jobs are forked; it imports torch meanwhile."""
        from multiprocessing import forkserver

        self._context.set_forkserver_preload(list(PRELOADED))
        with _environment(threads_environment(self.threads)):
            forkserver.ensure_running()

    def check_device(self, name: str) -> None:
        """As ``Engine`` has it."""
        check_gpu(name, bool(self.gpus))

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, running in self._running.values():
            running.kill()

    def room(self) -> int:
        """Free slots."""
        return len(self._free)

    def start(self, task: Task) -> None:
        """In the first free slot.

        Raises:
            OSError: the process cannot be started.
        """
        slot = self._free.pop(0)
        own = replace(task, environment={**task.environment, **threads_environment(self.threads), **self._sees(slot)})
        try:
            self._running[task.number] = slot, Running(own, lambda task: Forked(task, self._context))
        except OSError:
            self._free.append(slot)
            raise
        self._begun.append(Started(task.number, f"gpu {self._gpu(slot)}" if self.gpus else f"slot {slot}"))

    def look(self, seconds: float) -> Sequence[Started | Ended]:
        """What began and ended."""
        events: list[Started | Ended] = [*self._begun]
        self._begun = []
        processes = (running.process for _, running in self._running.values())
        sentinels = [process.sentinel for process in processes if isinstance(process, Forked)]
        if sentinels and not events:
            wait(sentinels, seconds)
        for number, (slot, running) in list(self._running.items()):
            if (ending := running.look()) is not None:
                del self._running[number]
                self._free = sorted([*self._free, slot])
                events.append(Ended(number, ending))
        return events

    def stop(self) -> None:
        """All write checkpoints and end."""
        for _, running in self._running.values():
            running.stop("stopped", "the sweep was stopped")

    def kill(self) -> None:
        """All end at once."""
        for _, running in self._running.values():
            running.stop("stopped", "the sweep was stopped at once")
            running.kill()

    def _gpu(self, slot: int) -> str:
        return self.gpus[slot % len(self.gpus)]

    def _sees(self, slot: int) -> dict[str, str]:
        """The slot's GPU alone."""
        return {"CUDA_VISIBLE_DEVICES": self._gpu(slot) if self.gpus else ""}


class Forked:
    """A process that is forked from one that has imported torch."""

    def __init__(self, task: Task, context: ForkServerContext) -> None:
        self._process = context.Process(target=_live, args=(task, environment(task)), name=f"job {task.number}")
        self._process.start()
        assert self._process.pid is not None
        self.pid, self.sentinel = self._process.pid, self._process.sentinel

    def ended(self) -> int | None:
        """As ``ader.sweeps.task.Process`` has it."""
        return self._process.exitcode


def visible_gpus(wanted: Literal["auto"] | Sequence[int]) -> list[str]:
    """GPUs by the names that CUDA_VISIBLE_DEVICES takes. No GPU is opened.

    Args:
        wanted: their numbers, as this process counts them; ``auto``: all.

    Raises:
        UserError: one is not there, or named twice.
    """
    from torch import cuda

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = cuda.device_count()
    names = [name.strip() for name in given.split(",")][:count] if given else [str(number) for number in range(count)]
    if wanted == "auto":
        return names
    missing = [str(number) for number in wanted if number >= len(names)]
    if missing or len(set(wanted)) < len(wanted):
        what = f"{some(missing)} is not there" if missing else "a number stands twice"
        raise UserError(f"launcher.gpus={list(wanted)}: {what}: torch sees {len(names)} CUDA devices, from 0")
    return [names[number] for number in wanted]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of what is started inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _live(task: Task, variables: Mapping[str, str]) -> None:
    """The life of a forked process, whose variables are those of the sweep and not of the process it is forked from."""
    parent = os.getppid()
    os.setsid()
    with open(os.devnull, "rb") as nothing, task.log.open("ab") as log:
        for stream, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(stream.fileno(), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the process's own, as long as it lives
    os.environ.clear()
    os.environ.update(variables)
    threading.Thread(target=_follow_sweep, daemon=True).start()
    live(parent, task.words)


def _follow_sweep() -> None:
    """Has this process end, as by ``kill``, when the one that sees to the sweep is gone: it is not its parent."""
    sweep = multiprocessing.parent_process()
    if sweep is not None:
        sweep.join()
        os.kill(os.getpid(), signal.SIGTERM)
