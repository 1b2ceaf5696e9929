"""Jobs on their way through an engine, until each has its result or a reason why not."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from ader.config.schema import SweepConfig
from ader.results.lock import holder
from ader.results.sweeps import ledger
from ader.results.sweeps.schema import Ending, JobRecord, State, SweepRecord, changed
from ader.sweeps.board import Board
from ader.sweeps.engine import Ended, Engine, Started
from ader.sweeps.numbers import METRICS, metrics_csv
from ader.sweeps.plan import Job
from ader.sweeps.task import Limits, Task
from ader.sweeps.trial import Trial
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.files import write_atomic
from ader.system.interrupt import SIGNALS, Halted

#: Seconds between two looks at a folder in which another run is at work.
BUSY = 15.0
#: Seconds between two signs of life, and at least between two writings of what has changed.
HEARTBEAT, PAUSE = 10.0, 1.0
#: A test batch that is out of memory is divided by this.
SMALLER = 4


@dataclass
class Sweep:
    """Jobs on their way through an engine.

    Attributes:
        config: of the sweep.
        folder: its own.
        jobs: as planned.
        record: what is known of them, as it is written.
        engine: where they run.
        console: for lines, which are kept in a log.
        config_dir: a folder with further options, for the jobs.
        board: shows the record.
        signals: how often the sweep was told to end.
    """

    config: SweepConfig
    folder: Path
    jobs: Sequence[Job]
    record: SweepRecord
    engine: Engine
    console: Console
    config_dir: str | None
    board: Board | None = None
    signals: int = 0

    def __post_init__(self) -> None:
        self.planned = {job.number: job for job in self.jobs}
        self.words = {job.number: job.words for job in self.jobs}  # as they are given to the engine
        self.not_before = dict.fromkeys(self.words, 0.0)  # for those that another run is at work on
        self._changed, self._written = True, 0.0

    @property
    def complete(self) -> bool:
        """Whether every job has its result."""
        return all(job.state in ("done", "there") for job in self.record.jobs)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Counts the signals that tell it to end: at the first jobs write checkpoints, the second ends them at once."""

        def take(number: int, frame: FrameType | None) -> None:
            self.signals += 1

        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, take) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def work(self) -> None:
        """All that the sweep's words ask for; however it ends, the record says so.

        Raises:
            UserError: a job failed its first steps.
        """
        self.keep(at_once=True)
        try:
            if self.config.preflight:
                self._try_all()
            if not self.config.dry_run:
                self._execute()
        finally:
            for job in self.of("queued", "running"):
                self.set(job.number, state="stopped")
            self.record = replace(self.record, ended=ledger.now())
            self._write_metrics()
            self.keep(at_once=True)

    def _execute(self) -> None:
        """Runs what is waiting, until nothing is, or the sweep is told to end."""
        obeyed = 0
        while self.of("queued", "running") or (self.of("waiting") and not self.signals):
            if self.signals > obeyed:
                obeyed = self._obey()
            if not self.signals:
                self._start_jobs()
            self._take(self.engine.look(PAUSE / 4))
            self.keep()

    def _try_all(self) -> None:
        """The first steps of every waiting job, which gives its memory and an estimate of its time.

        Raises:
            UserError: some failed; each was told with its reason.
            Halted: a signal came.
        """
        waiting, said, found = self.of("waiting"), dict[int, Ending](), dict[int, Task]()
        for job in waiting:
            task = self.task(job.number)
            file = self.folder / "trials" / f"{job.number:04d}.json"
            file.unlink(missing_ok=True)
            words = ("sweep", "try", *task.words, f"out={file}")
            found[job.number] = replace(task, words=words, trial=file, log=file.with_suffix(".log"))
        todo = list(found)
        with self.console.track("preflight", len(todo), "jobs") as track:
            while len(said) < len(found) and not (self.signals and len(said) + len(todo) == len(found)):
                if self.signals:
                    self.engine.kill()  # there is nothing to keep
                while todo and self.engine.room() and not self.signals:
                    self.engine.start(found[todo.pop(0)])
                for event in self.engine.look(PAUSE / 4):
                    if isinstance(event, Ended):
                        said[event.number] = event.ending
                        track.advance()
                self.keep()
        if self.signals:
            raise Halted("stopped before the first job: give the same line again")
        failed = {number: ending for number, ending in said.items() if ending.kind != "done"}
        for number, ending in sorted(failed.items()):
            self.console.say(f"job {number}  {ending.kind}: {ending.reason} ({found[number].log})")
        if failed:
            raise UserError(f"{len(failed)} of {len(found)} jobs failed their first steps, as said above: correct that")
        for number, task in found.items():
            trial = Trial.read(task.trial or task.log)
            self.set(number, estimate_seconds=trial.seconds, trial_bytes=trial.memory_bytes)

    def of(self, *states: State) -> list[JobRecord]:
        """The jobs in these states."""
        return [job for job in self.record.jobs if job.state in states]

    def set(self, number: int, **values: object) -> None:
        """Other values of a job."""
        jobs = tuple(changed(job, **values) if job.number == number else job for job in self.record.jobs)
        self.record, self._changed = replace(self.record, jobs=jobs), True

    def keep(self, at_once: bool = False) -> None:
        """Writes down what has changed, and that this process is alive; shows it."""
        since = time.monotonic() - self._written
        if at_once or since > HEARTBEAT or (self._changed and since > PAUSE):
            self.record = replace(self.record, heartbeat=ledger.now())
            with suppress(OSError):  # a full disk must not end the jobs: it may have room at the next change
                ledger.write(self.folder, self.record)
            self._changed, self._written = False, time.monotonic()
        if self.board is not None:
            self.board.show(self.record)

    def log_of(self, number: int) -> Path:
        """The file for all that a job prints."""
        return self.folder / "jobs" / f"{number:04d}.log"

    def task(self, number: int) -> Task:
        """A job as the engine gets it."""
        job, options = self.planned[number], self.config.launcher
        given = [] if self.config_dir is None else ["--config-dir", self.config_dir]
        limits = Limits(
            seconds=options.hours and options.hours * 3600,
            idle=options.idle_minutes and options.idle_minutes * 60,
            grace=options.grace_seconds,
        )
        return Task(
            number=number,
            words=(*self.words[number], *given),
            folder=job.folder,
            outputs=job.outputs,
            log=self.log_of(number),
            limits=limits,
            replaces=job.replaces,
            title=job.title,
        )

    def _obey(self) -> int:
        """Has the running jobs end; returns the number of signals that were obeyed."""
        signals = self.signals
        if signals == 1:
            self.console.say("stopping: running jobs write checkpoints and end (again: at once)")
            self.engine.stop()
        else:
            self.console.say("stopping at once")
            self.engine.kill()
        return signals

    def _start_jobs(self) -> None:
        """As many as there is room for, those first that may take longest, or of which that is not known."""
        now = time.monotonic()
        ready = [job for job in self.of("waiting") if self.not_before[job.number] <= now]
        ready.sort(key=lambda job: -float("inf") if job.estimate_seconds is None else -job.estimate_seconds)
        for job in ready[: self.engine.room()]:
            task = self.task(job.number)
            if who := holder(job_folder := self.planned[job.number].folder):
                busy = Ending(kind="busy", reason=f"another run is at work in {job_folder}: {who}")
                self._take([Ended(job.number, busy)])
                continue
            if job.attempts == 0 and not self.not_before[job.number]:
                task.log.unlink(missing_ok=True)  # of an earlier sweep
            elif task.finished():  # by the run that was at work on it
                self.set(job.number, state="there", ending=None)
                continue
            try:
                self.engine.start(task)
            except OSError as error:
                ending = Ending(kind="raised", reason=f"could not be started: {error.strerror or error}")
                self._take([Ended(job.number, ending)])
                continue
            self.set(job.number, state="queued", attempts=job.attempts + 1, began=None, where=None, ending=None)

    def _take(self, events: Sequence[Started | Ended]) -> None:
        for event in events:
            job = next(job for job in self.record.jobs if job.number == event.number)
            if isinstance(event, Started):
                self.set(job.number, state="running", began=ledger.now(), where=event.where or None)
                self.console.note(
                    f"job {job.number} begins on {event.where or 'this machine'}: ader {shlex.join(job.words)}"
                )
            else:
                self._settle(job, event.ending)
            if self.board is not None:
                self.board.tell(next(each for each in self.record.jobs if each.number == event.number), self.record)

    def _settle(self, job: JobRecord, ending: Ending) -> None:
        """What becomes of a job that has ended."""
        number, planned = job.number, self.planned[job.number]
        if ending.kind == "done":
            self.set(number, state="done", ending=ending)
            self._write_metrics()
        elif ending.kind == "busy" and not self.signals:
            self.not_before[number] = time.monotonic() + BUSY
            self.set(number, state="waiting", ending=ending)
        elif ending.kind == "stopped":
            self.set(number, state="stopped", ending=ending)
        elif ending.kind == "memory" and self._may_shrink(job) and not self.signals:
            size = max(1, planned.test_batch_size // SMALLER)
            self.words[number] = (*job.words, f"trainer.test_batch_size={size}")
            note = f"out of memory, tried once more with trainer.test_batch_size={size}"
            self.set(number, state="waiting", ending=ending, notes=(*job.notes, note))
        else:
            self.set(number, state="failed", ending=ending)

    def _write_metrics(self) -> None:
        with suppress(OSError):  # as in `keep`
            write_atomic(self.folder / METRICS, metrics_csv(self.record, self.config.paths.results))

    def _may_shrink(self, job: JobRecord) -> bool:
        wanted, size = self.config.launcher.smaller_test_batch, self.planned[job.number].test_batch_size
        return wanted and size > 1 and self.words[job.number] == job.words
