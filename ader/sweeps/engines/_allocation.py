"""What an element of a Slurm array does, on the machine that it was given."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any

from ader.results.sweeps.schema import Ending
from ader.sweeps.engines._watch import given, watch
from ader.sweeps.task import Task

#: Seconds for which a job waits for the end that Slurm has announced.
ANNOUNCED = 600.0


class Watched:
    """What a job of Slurm's does: it watches one task.

    Slurm's signals reach all processes of a job. SIGUSR2, before the allocation ends, has the job queued again as soon
    as its checkpoint is written. After SIGTERM, which announces a preemption or a cancellation, it waits for its end:
    a job that left by itself would not be queued again.

    Args:
        task: what to run.
        orders: folder of what all tasks are told.
    """

    def __init__(self, task: Task, orders: Path) -> None:
        self.task, self.orders = task, orders

    def __call__(self) -> Ending:
        """Runs the task."""
        heard: list[int] = []

        def hear(number: int, frame: FrameType | None) -> None:
            heard.append(number)

        requeue = signal.signal(signal.SIGUSR2, hear)
        signal.signal(signal.SIGTERM, hear)
        ending = watch(self.task, lambda: "stop" if heard else given(self.orders))
        if not heard or ending.kind not in ("stopped", "killed"):  # killed: by that signal, before it listened
            return ending
        if signal.SIGUSR2 in heard:
            return self._queue_again(requeue)
        until = time.monotonic() + ANNOUNCED
        while time.monotonic() < until and "SLURM_JOB_ID" in os.environ:
            time.sleep(1)
        return ending

    def checkpoint(self) -> Any:
        """What submitit runs after it has queued the job again; the run's own checkpoint is in its folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _queue_again(self, requeue: Any) -> Ending:
        """Leaves this process, where Slurm takes the job back; returns where it does not."""
        from submitit.core.utils import UncompletedJobError

        try:
            requeue(signal.SIGUSR2, None)
        except UncompletedJobError:
            return Ending(kind="limit", reason="its allocations are used up (launcher.allocations, allocation_hours)")
        except (OSError, subprocess.SubprocessError) as error:
            return Ending(kind="stopped", reason=f"wrote a checkpoint, and Slurm did not queue it again: {error}")
        return Ending(kind="stopped", reason="was queued again")
