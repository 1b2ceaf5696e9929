"""``launcher=slurm``: job arrays of Slurm, through submitit; each element watches the process of one job.

What is promised where something dies: a job that Slurm preempts, whose time is over or whose machine dies is queued
again by Slurm, under its number, and goes on from its checkpoint. Jobs do not need the sweep's own process: when that
dies they go on, and the same line later finds their results. All machines see the same files.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import Field

from ader.config.ranges import Count, Positive
from ader.results.sweeps.schema import Ending, Failure
from ader.sweeps.engine import Ended, Started, check_gpu
from ader.sweeps.engines._allocation import Watched
from ader.sweeps.engines._watch import environment, give
from ader.sweeps.task import Task, last_lines
from ader.system.errors import UserError
from ader.system.launch import cores

#: File with the numbers of a sweep's arrays.
JOBS = "jobs"
#: Elements of one array: Slurm's own default is 1001.
ARRAY = 1000
#: Seconds between two questions to Slurm: the first, and at most.
SOON, SELDOM = 1.0, 15.0
#: Seconds for which a job must have been over without a word of it before that is believed: shared disks are slow.
SETTLED = 15.0
#: Seconds that a checkpoint's job has beyond those in which the job is to write it, before Slurm ends it.
MARGIN = 60
#: Starts a program that does not hear Slurm's signals until it listens: they would kill it while it imports, and a job
#: that has ended in any way before its preemption is not queued again.
DEAF = 'trap "" TERM USR2; exec "$0" "$@"'

#: Slurm's states of a job that is over, and what each says of one that left no word.
OVER: Mapping[str, tuple[Failure, str]] = {
    "COMPLETED": ("no result", "ended without a word of how"),
    "FAILED": ("killed", "the process that watched it was killed"),
    "TIMEOUT": ("limit", "was at work for its whole allocation (launcher.allocation_hours)"),
    "DEADLINE": ("limit", "did not end before its deadline"),
    "OUT_OF_MEMORY": ("memory", "was ended by Slurm for want of memory (launcher.memory_gb)"),
    "NODE_FAIL": ("lost", "its machine died, and Slurm did not queue it again"),
    "BOOT_FAIL": ("lost", "its machine did not start"),
    "CANCELLED": ("stopped", "was canceled in Slurm"),
    "PREEMPTED": ("stopped", "was preempted, and Slurm did not queue it again"),
    "REVOKED": ("stopped", "was taken over by another cluster"),
    "": ("lost", "Slurm does not know it any more"),
}

Values = Mapping[str, str | int | float | bool]


@dataclass
class _Submitted:
    """A task in Slurm's hands: submitit's job, whether it has begun now and whether that was ever told, and since when
    it has been over without a result."""

    task: Task
    job: Any
    begun: bool = False
    told: bool = False
    over_since: float | None = None


class Engine:
    """Jobs in arrays of Slurm, which decides how many run at once.

    Args:
        cluster: ``slurm``; or ``local``: submitit's processes on this machine, to try a line without Slurm.
        partition, account, qos, constraint: as sbatch has them.
        slots: jobs of an array at once, at most.
        allocation_hours: time limit of an allocation; a job that needs longer writes a checkpoint before and goes on
            in another one.
        allocations: how many a job may have whose time is over.
        cpus, gpus, memory_gb: of each job; null: the partition's memory per job.
        setup: lines of shell before the job, such as ``module load cuda``.
        python: the interpreter on the machines, such as one in a container; null: the one at work here.
        container_image, container_mounts: for srun with pyxis: an image, and ``HERE:THERE`` folders in it.
        srun: further arguments of srun.
        sbatch: further parameters of sbatch, such as {mail-type: END}.

    Raises:
        UserError: submitit or Slurm is not installed.
    """

    def __init__(
        self,
        cluster: Literal["slurm", "local"] = "slurm",
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        slots: Count = 100,
        allocation_hours: Positive = 24.0,
        allocations: Count = 10,
        cpus: Annotated[int, Field(ge=1, le=1024)] = 8,
        gpus: Annotated[int, Field(ge=0, le=64)] = 1,
        memory_gb: Positive | None = None,
        setup: Sequence[str] = (),
        python: str | None = None,
        container_image: str | None = None,
        container_mounts: Sequence[str] = (),
        srun: Sequence[str] = (),
        sbatch: Values | None = None,
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError("launcher=slurm needs the package submitit: pip install 'ader-bench[slurm]'") from error
        self._submitit: Any = submitit
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise UserError(
                "launcher=slurm: there is no sbatch here: start the sweep on a machine of the cluster, or try the line "
                "with launcher.cluster=local"
            )
        own = {"partition": partition, "account": account, "qos": qos, "constraint": constraint, "cpus-per-task": cpus}
        own |= {"gpus-per-node": gpus or None, "mem": None if memory_gb is None else f"{round(memory_gb * 1024)}M"}
        self.sbatch: dict[str, Any] = {
            "requeue": True,
            **{key: value for key, value in own.items() if value is not None},
            **(sbatch or {}),
        }
        here = f"--container-workdir={os.getcwd()}"
        container = [] if container_image is None else [f"--container-image={container_image}", here]
        mounts = [f"--container-mounts={','.join(container_mounts)}"] if container_mounts else []
        # since 22.05 srun does not take the number of cores from the job that it is in
        self.srun = [f"--cpus-per-task={cpus}", *container, *mounts, *srun]
        self.cluster, self.cpus, self.gpus, self.allocations = cluster, cpus, gpus, allocations
        self.at_once = slots if cluster == "slurm" else max(1, min(slots, cores() // cpus))
        self.slots: int | None = None if cluster == "slurm" else self.at_once
        self.minutes, self.setup, self.python = max(1, round(allocation_hours * 60)), list(setup), python
        self._waiting: list[Task] = []
        self._jobs: dict[int, _Submitted] = {}
        self._folder, self._pause, self._asked = Path(), SOON, 0.0
        self._orders: set[str] = set()

    def open(self, folder: Path) -> None:
        """Asks Slurm whether it would take such a job.

        Raises:
            UserError: it would not; in Slurm's words.
        """
        self._folder = folder.absolute() / f"slurm-{socket.gethostname()}-{os.getpid()}"
        if self.cluster == "slurm":
            flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in self.sbatch.items()]
            asked = _slurm("sbatch", "--test-only", f"--time={self.minutes}", *flags, "--wrap=true")
            if asked.returncode:
                said = asked.stderr.strip().splitlines() or ["without a word"]
                raise UserError(f"Slurm refuses such a job ({said[-1]}): correct launcher.partition, account, gpus ...")

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._jobs or self._waiting:
            self.kill()

    def room(self) -> int:
        """Slurm has a queue of its own; submitit's local processes have none."""
        if self.cluster == "local":
            return self.at_once - len(self._jobs) - len(self._waiting)
        return 1_000_000

    def check_device(self, name: str) -> None:
        """As ``Engine`` has it."""
        check_gpu(name, bool(self.gpus))

    def start(self, task: Task) -> None:
        """Takes a task; those that were taken by the next ``look`` make an array."""
        self._waiting.append(task)

    def look(self, seconds: float) -> Sequence[Started | Ended]:
        """What began and ended."""
        events: list[Started | Ended] = [*self._submit(), *self._results()]
        if time.monotonic() - self._asked >= self._pause:
            events += self._states()
            self._asked = time.monotonic()
            self._pause = SOON if events else min(SELDOM, self._pause * 1.5)
        if not events:
            time.sleep(min(seconds, SOON / 2))
        return events

    def stop(self) -> None:
        """Running jobs see the order; Slurm forgets those that wait."""
        self._order("stop", ["--state=PENDING"])

    def kill(self) -> None:
        """All end at once."""
        self._order("kill", [])

    def _order(self, order: Literal["stop", "kill"], which: Sequence[str]) -> None:
        if order in self._orders:
            return
        self._orders.add(order)
        give(self._folder, order)
        if self.cluster == "slurm" and self._jobs:
            _slurm("scancel", *which, *(job.job.job_id for job in self._jobs.values()))
        self._pause = SOON

    def _submit(self) -> Iterator[Ended]:
        """Gives Slurm what waits, as an array; ends what it does not take."""
        taken, self._waiting = self._waiting[:ARRAY], self._waiting[ARRAY:]
        if not taken:
            return
        if self._orders:
            yield from (Ended(task.number, Ending(kind="stopped", reason="was not begun")) for task in taken)
            return
        if not self._folder.exists():
            self._withdraw_earlier()
        grace = round(max(task.limits.grace for task in taken)) + MARGIN
        try:
            executor = self._executor(min(grace, self.minutes * 60 // 2))
            own = environment(self.cpus, self.gpus)
            with executor.batch():
                jobs = [
                    executor.submit(Watched(replace(task, environment={**own, **task.environment}), self._folder))
                    for task in taken
                ]
        except (self._submitit.core.utils.FailedJobError, OSError) as error:
            said = next((line for line in reversed(str(error).splitlines()) if "error" in line.lower()), str(error))
            reason = f"Slurm did not take it: {' '.join(said.split())[:500]}"
            yield from (Ended(task.number, Ending(kind="raised", reason=reason)) for task in taken)
            return
        for task, job in zip(taken, jobs, strict=True):
            self._jobs[task.number] = _Submitted(task, job)
        with (self._folder / JOBS).open("a", encoding="utf-8") as file:
            print(jobs[0].job_id.partition("_")[0], file=file)
        self._pause = SOON

    def _withdraw_earlier(self) -> None:
        """Jobs that still wait for a sweep that was killed: they are among those that are now taken anew."""
        files = self._folder.parent.glob(f"slurm-*/{JOBS}") if self.cluster == "slurm" else ()
        if jobs := [job for file in files for job in file.read_text(encoding="utf-8").split()]:
            _slurm("scancel", "--state=PENDING", *jobs)

    def _executor(self, signal_seconds: int) -> Any:
        own: dict[str, Any] = {"timeout_min": self.minutes}
        kind = self._submitit.LocalExecutor
        if self.cluster == "slurm":
            kind = self._submitit.SlurmExecutor
            own = {
                "job_name": "ader",
                "time": self.minutes,
                "array_parallelism": self.at_once,
                "srun_args": self.srun,
                "additional_parameters": self.sbatch,
            }
        python = f"sh -c {shlex.quote(DEAF)} {self.python or shlex.quote(sys.executable)}"
        executor = kind(self._folder, max_num_timeout=self.allocations - 1, python=python)
        executor.update_parameters(signal_delay_s=signal_seconds, setup=self.setup, **own)
        return executor

    def _results(self) -> Iterator[Started | Ended]:
        """Jobs that have said how they ended."""
        for number, job in list(self._jobs.items()):
            if job.job.paths.result_pickle.exists():
                yield from self._over(number, self._said(job))

    def _over(self, number: int, ending: Ending) -> Iterator[Started | Ended]:
        """A job has ended; one that began and ended between two looks is told as begun first."""
        job = self._jobs.pop(number)
        if not job.told and ending.kind != "stopped":
            yield Started(number, f"job {job.job.job_id}")
        yield Ended(number, ending)

    def _said(self, job: _Submitted) -> Ending:
        try:
            ending: Ending = job.job.result()
            return ending
        except Exception as error:  # whatever went wrong in the job, or in reading what it said
            lines = [line for line in str(error).splitlines() if line.strip(" -") and "full logs" not in line]
            reason = next((line for line in reversed(lines) if not line.startswith(("or at paths", "  - "))), "")
            return Ending(kind="raised", reason=f"its watcher failed: {reason.strip()}"[:500])

    def _states(self) -> Iterator[Started | Ended]:
        """Jobs that run now, and those that are over without a word."""
        states = self._locally() if self.cluster == "local" else squeue(job.job.job_id for job in self._jobs.values())
        if states is None:  # Slurm does not answer
            return
        for number, job in list(self._jobs.items()):
            array = job.job.job_id.partition("_")[0]  # stands for those of its elements that were withdrawn together
            state, where = states.get(job.job.job_id) or states.get(array) or ("", "")
            if state not in OVER:
                job.over_since = None
                if (state == "RUNNING") > job.begun:
                    job.told = True
                    yield Started(number, f"job {job.job.job_id}" + (f" on {where}" if where else ""))
                job.begun = state in ("RUNNING", "COMPLETING")
                continue
            job.over_since = job.over_since or time.monotonic()
            if job.job.paths.result_pickle.exists() or time.monotonic() - job.over_since < SETTLED:
                continue
            yield from self._over(number, self._unsaid(job, state))

    def _unsaid(self, job: _Submitted, state: str) -> Ending:
        """How a job ended that left no word."""
        if job.task.finished():
            return Ending(kind="done")
        if self._orders and not job.begun:
            return Ending(kind="stopped", reason="the sweep was stopped before it began")
        kind, reason = OVER[state]
        lines = [*last_lines(job.job.paths.stderr), *last_lines(job.task.log)]
        return Ending(kind=kind, reason=f"{reason} (job {job.job.job_id})", lines=tuple(lines))

    def _locally(self) -> dict[str, tuple[str, str]]:
        names = {"FINISHED": "COMPLETED", "INTERRUPTED": "FAILED"}
        jobs = [job.job for job in self._jobs.values()]
        return {job.job_id: (names.get(job.state, job.state), "") for job in jobs}


def squeue(jobs: Iterator[str] | Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """State and machines of jobs by their numbers, also of those that ended lately; None where Slurm does not answer.

    submitit asks sacct, which clusters without accounting have not.
    """
    arrays = sorted({job.partition("_")[0] for job in jobs})
    if not arrays:
        return {}
    asked = _slurm("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(arrays)}", "--format=%i|%T|%N")
    if asked.returncode:
        return {} if "Invalid job id" in asked.stderr else None
    lines = [line.split("|") for line in asked.stdout.splitlines()]
    return {job: (state, where) for job, state, where in lines}


def _slurm(*words: str) -> subprocess.CompletedProcess[str]:
    """One of Slurm's commands."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", f"{shlex.join(words)[:100]}: {error}")
