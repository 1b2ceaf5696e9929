"""What the launchers of clusters share: a job's process is watched on the machine where it runs, and told to end from
the one where the sweep is, through a file in the sweep's folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from ader.results.sweeps.schema import Ending
from ader.sweeps.task import Running, Task, threads_environment

#: What a job is told: to write a checkpoint and end, or to end at once.
Order = Literal["stop", "kill"]

#: Seconds between two looks at a job, and between two attempts to get a folder that is taken.
LOOK, AGAIN = 0.25, 3.0


def give(folder: Path, order: Order) -> None:
    """Gives all jobs of a sweep an order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / order).touch()


def given(folder: Path) -> Order | None:
    """The order that the jobs of a sweep have."""
    if (folder / "kill").exists():
        return "kill"
    return "stop" if (folder / "stop").exists() else None


def watch(task: Task, order: Callable[[], Order | None]) -> Ending:
    """Runs a task to its end on the machine that it was given.

    A run whose watcher was killed writes its checkpoint before it leaves its folder, and may do so while its job is
    tried again here: a folder that is taken is waited for as long as a job is granted for its end.

    Args:
        task: what to run.
        order: what it is told; asked several times a second.
    """
    until = time.monotonic() + task.limits.grace
    while True:
        if order() is not None:
            return Ending(kind="stopped", reason="the sweep was stopped before it began")
        ending = _once(task, order)
        if ending.kind != "busy" or time.monotonic() > until:
            return ending
        time.sleep(AGAIN)


def watch_here(task: Task, orders: Path, mark: Path, folder: str) -> Ending:
    """What a worker of Ray's does.

    Args:
        task: what to run.
        orders: folder of what all tasks are told.
        mark: file that says where this one runs.
        folder: the sweep's working directory, from which relative paths lead.
    """
    os.chdir(folder)
    mark.write_text(socket.gethostname(), encoding="utf-8")
    return watch(task, lambda: given(orders))


def _once(task: Task, order: Callable[[], Order | None]) -> Ending:
    running = Running(task)
    try:
        while (ending := running.look()) is None:
            match order():
                case "stop":
                    running.stop("stopped", "the sweep was stopped")
                case "kill":
                    running.stop("stopped", "the sweep was stopped at once")
                    running.kill()
            time.sleep(LOOK)
        return ending
    except BaseException:  # a watcher that is thrown out of its work leaves no process without one
        running.kill()
        raise


def environment(cpus: int, gpus: float) -> Mapping[str, str]:
    """Of a job: so many threads, and no GPU where none was asked for (with some, the cluster says which)."""
    return {**threads_environment(cpus), **({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})}
