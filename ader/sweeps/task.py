"""One job as an engine gets it: a command line in a process and session of its own, watched until it ends."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

import ader
from ader.results.outputs import Outputs
from ader.results.sweeps.schema import Ending, Failure
from ader.system.console import duration
from ader.system.errors import UserError
from ader.system.launch import CORES, WHY
from ader.system.parallel import die_with
from ader.system.text import clean

#: Lines of a log that are kept of a job that failed.
LINES = 5
#: Seconds between two looks at what a job computes; at least so many looks are made before it counts as hung.
PERIOD, LOOKS = 5.0, 5
#: Seconds of computing between two looks that count as some: the system counts in hundredths.
SOME = 0.02


@dataclass(frozen=True)
class Limits:
    """How long a job may take.

    Attributes:
        seconds: in all; None for ever.
        idle: seconds without a word in the log and without computing; None for ever.
        grace: seconds from the signal to end until it is killed.
    """

    seconds: float | None = None
    idle: float | None = None
    grace: float = 120.0


@dataclass(frozen=True)
class Task:
    """A job to be run; everything in it can be pickled and holds on any machine with the same files.

    Attributes:
        number: of the job in its sweep, from 1.
        words: of ``ader``.
        folder: of the result.
        outputs: what the result is to hold.
        trial: the file that is wanted in place of a result, for a task that only tries what a run would do.
        replaces: the result that was there before and is to be made again (``force=true``): its modification time.
        log: file for all that the job prints.
        limits: of its time.
        environment: over that of the engine.
        title: for what an engine shows.
    """

    number: int
    words: tuple[str, ...]
    folder: Path
    outputs: Outputs
    log: Path
    limits: Limits = Limits()
    environment: Mapping[str, str] = field(default_factory=dict)
    trial: Path | None = None
    replaces: int | None = None
    title: str = ""

    @property
    def why(self) -> Path:
        """Where the program leaves the reason of an error."""
        return self.log.with_suffix(".why")

    def finished(self) -> bool:
        """Whether the result is there, with all that it is to hold."""
        if self.trial is not None:
            return self.trial.exists()
        from ader.results import record  # brings pandas, which who only watches a job does without

        try:
            earlier = record.read(self.folder)
            newer = self.replaces is None or (self.folder / record.FILE).stat().st_mtime_ns != self.replaces
        except (UserError, OSError):
            return False
        return earlier is not None and newer and self.outputs in Outputs.of(earlier)


class Process(Protocol):
    """What is needed of a started process: both ``subprocess`` and ``multiprocessing`` have it."""

    pid: int

    def ended(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""


class Program:
    """A process that was started from scratch: takes the seconds of importing torch."""

    def __init__(self, task: Task) -> None:
        command = [sys.executable, "-m", "ader.sweeps.task", str(os.getpid()), *task.words]
        with task.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(task),
                start_new_session=True,
            )
        self.pid = self._process.pid

    def ended(self) -> int | None:
        """As ``Process`` has it."""
        return self._process.poll()


class Running:
    """A task at work.

    Args:
        task: what runs.
        start: starts its process.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, task: Task, start: Callable[[Task], Process] = Program) -> None:
        self.task = task
        task.log.parent.mkdir(parents=True, exist_ok=True)
        task.why.unlink(missing_ok=True)
        self.from_byte = task.log.stat().st_size if task.log.exists() else 0
        self.process = start(task)
        self.began = time.monotonic()
        self.told: tuple[Failure, str, float] | None = None
        self.memory = 0
        period = PERIOD if task.limits.idle is None else min(PERIOD, task.limits.idle / LOOKS)
        self._activity = _Activity(self.process.pid, task.log, period)

    def look(self) -> Ending | None:
        """How it ended; None while it runs. Ends what is over its limits."""
        status = self.process.ended()
        if status is not None:
            _signal_session(self.process.pid, signal.SIGKILL)  # whatever it has left
            return self._ending(status)
        limits, now = self.task.limits, time.monotonic()
        self.memory = max(self.memory, self._activity.look())
        if self.told is not None:
            if now - self.told[2] > limits.grace:
                self.kill()
        elif limits.seconds is not None and now - self.began > limits.seconds:
            self.stop("limit", f"was at work for {duration(limits.seconds)}, its limit (launcher.hours)")
        elif limits.idle is not None and now - self._activity.active > limits.idle:
            self.stop("hung", f"said nothing and computed nothing for {duration(limits.idle)} (launcher.idle_minutes)")
        return None

    def stop(self, kind: Failure, reason: str) -> None:
        """Has it write a checkpoint and end; it is killed if it takes longer than the limits grant."""
        if self.told is None:
            self.told = kind, reason, time.monotonic()
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, with all processes of its session."""
        _signal_session(self.process.pid, signal.SIGKILL)

    def _ending(self, status: int) -> Ending:
        seconds, task = time.monotonic() - self.began, self.task
        if task.finished():
            return Ending(kind="done", seconds=seconds, memory_bytes=self.memory)
        lines = last_lines(task.log, self.from_byte)
        kind, reason = self.told[:2] if self.told else judged(status, task.why, lines)
        if self.told and status == -signal.SIGKILL:
            reason += f", and did not end within {duration(task.limits.grace)}: killed"
        return Ending(kind=kind, reason=reason, lines=tuple(lines), seconds=seconds, memory_bytes=self.memory)


def environment(task: Task) -> dict[str, str]:
    """Of the task's process: nothing of a surrounding torchrun, and where to leave the reason of an error."""
    inherited = {name: value for name, value in os.environ.items() if not _of_torchrun(name)}
    return {**inherited, **task.environment, WHY: str(task.why)}


def threads_environment(threads: int) -> dict[str, str]:
    """Has a program, and the libraries below it, compute with so many threads."""
    limited = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", CORES)
    return dict.fromkeys(limited, str(threads))


def judged(status: int, why: Path, lines: Sequence[str]) -> tuple[Failure, str]:
    """Why a process without a result ended: what it says itself, else what its exit status and last words say."""
    try:
        said = json.loads(why.read_text(encoding="utf-8"))
        kinds: Mapping[str, Failure] = {kind: kind for kind in ("input", "stopped", "memory", "busy")}
        return kinds.get(said["kind"], "raised"), clean(str(said["message"])).removeprefix("error: ")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    last = next((line for line in reversed(lines) if line.strip()), "")
    if re.search(r"bad_alloc|[Oo]ut of memory|[Cc]an(no|')t allocate memory", " ".join(lines)):
        return "memory", last
    if status == 0:
        return "no result", "ended with status 0 and left no result"
    if status > 0:
        return (
            "raised",
            f"ended with status {status}: {last}" if last else f"ended with status {status}, without a word",
        )
    name = signal.Signals(-status).name
    hint = ", by someone or by the system for want of memory" if status == -signal.SIGKILL else ""
    return "killed", f"was killed by {name}{hint}"


def last_lines(log: Path, from_byte: int = 0, most: int = LINES) -> list[str]:
    """The last lines that a job printed."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(from_byte, end - 20_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [clean(line)[:500] for line in text.replace("\r", "\n").splitlines() if line.strip()][-most:]


class _Activity:
    """When a session last said or computed something, and how much memory it has."""

    def __init__(self, pid: int, log: Path, period: float) -> None:
        self.pid, self.log, self.period = pid, log, period
        self.active = self.looked = time.monotonic()
        self._computed, self._said, self._memory = 0.0, -1, 0

    def look(self) -> int:
        """Bytes of resident memory, all processes of the session together (what they share counts for each)."""
        now = time.monotonic()
        if now - self.looked < self.period and self._said >= 0:
            return self._memory
        computed, self._memory = _cost(self.pid)
        said = self.log.stat().st_size if self.log.exists() else 0
        if said != self._said or computed > self._computed + SOME or computed < self._computed:
            self.active = now
        self._computed, self._said, self.looked = computed, said, now
        return self._memory


def _cost(pid: int) -> tuple[float, int]:
    """Processor seconds and bytes of a process and all below it."""
    seconds, memory = 0.0, 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return seconds, memory
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system
            memory += process.memory_info().rss
    return seconds, memory


def _signal_session(pid: int, number: int) -> None:
    """To all processes of the group that a task's process leads."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _of_torchrun(name: str) -> bool:
    exact = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
    return name in exact or name.startswith("TORCHELASTIC_")


def live(parent: int, words: Sequence[str]) -> None:
    """The life of a task's process: ``python -m ader WORDS``. It is told to end when the one that watches it dies, and
    then writes a checkpoint."""
    die_with(parent, signal.SIGTERM)
    sys.argv = ["ader", *words]
    runpy.run_path(str(Path(ader.__file__).with_name("__main__.py")), run_name="__main__")


if __name__ == "__main__":  # python -m ader.sweeps.task PARENT WORDS...
    live(int(sys.argv[1]), sys.argv[2:])
