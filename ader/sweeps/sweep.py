"""A sweep from the command line to the last job: read this first.

Every job is planned before the first begins (``plan``); an engine runs them, each in a process of its own (``engine``,
``task``); what happens is kept in the sweep's folder (``ledger``) and shown (``board``).
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ader.config.compose import compose_as
from ader.config.schema import SweepConfig
from ader.config.sweep import divide, expand
from ader.results.folder import exclusive
from ader.results.lock import Busy
from ader.results.sweeps import ledger
from ader.results.sweeps.schema import JobRecord, SweepRecord
from ader.sweeps import board
from ader.sweeps import engine as engines
from ader.sweeps.engine import Engine
from ader.sweeps.plan import Job, Planned, plan_jobs
from ader.sweeps.running import Sweep
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.text import clean


def sweep(words: Sequence[str], config_dir: str | None = None) -> int:
    """Runs all jobs that the words stand for, or what is left of them.

    Args:
        words: overrides in Hydra's sweep syntax, and the sweep's own.
        config_dir: a folder with further options.

    Returns:
        The exit status: 0 where every job has its result, else 1.

    Raises:
        UserError: bad input, in the sweep's words or any job's; nothing was started.
    """
    own, theirs = divide(words)
    config = compose_as(SweepConfig, own, config_dir)
    lines, swept = expand(theirs, None if config_dir is None else Path(config_dir))
    name = ledger.name_of(lines, swept) if config.sweep is None else config.sweep
    folder = ledger.folder_of(config.paths.results, name)
    engine = engines.build(config.launcher.name, config.launcher.rest)
    if config.preflight or not config.dry_run:
        engine.open(folder)  # what takes time is made ready while the jobs are planned
    planned = plan(lines, config_dir, engine)
    record = opened(folder, config, planned.jobs, engine, swept, shlex.join(["ader", "-m", *words]))
    if config.dry_run and not config.preflight:
        Console().say(board.plan_text(record))
        return 0
    with holding(folder), Console(folder / "sweep.log") as console, engine:
        run = Sweep(config, folder, planned.jobs, record, engine, console, config_dir)
        with run.listening(), board.shown(run.record, folder, console) as run.board:
            run.work()
        console.say(
            board.plan_text(run.record) if config.dry_run else board.summary(run.record, folder, config.paths.results)
        )
    return 0 if config.dry_run or run.complete else 1


def plan(lines: Sequence[tuple[str, ...]], config_dir: str | None, engine: Engine) -> Planned:
    """Plans all jobs.

    Raises:
        UserError: some cannot run; each problem was said in a line.
    """
    console = Console()
    with console.track("check jobs", len(lines), "jobs") as track:
        planned = plan_jobs(lines, config_dir, engine.check_device, track.advance)
    for line in planned.lines():
        print(clean(line), file=sys.stderr)
    if stopped := sum(map(len, planned.problems.values())):
        raise UserError(f"{stopped} of {len(lines)} jobs cannot run, as said above; nothing was started: correct that")
    for number, first in planned.twice.items():
        console.say(f"job {number} is the same run as job {first}: it runs once")
    return planned


def opened(
    folder: Path, config: SweepConfig, jobs: Sequence[Job], engine: Engine, swept: Sequence[str], command: str
) -> SweepRecord:
    """What is known of the jobs at the beginning: from their results, and from what an earlier sweep saw of them."""
    earlier = ledger.read(folder)
    known = {job.words: job for job in earlier.jobs} if earlier else {}
    records = []
    for job in jobs:
        before = known.get(job.words)
        failed = before is not None and before.state == "failed"
        left_out = {"missing": False, "failed": not failed, "new": failed}[config.retry]
        estimate = before.estimate_seconds if before else None
        records.append(
            JobRecord(
                number=job.number,
                words=job.words,
                title=job.title,
                folder=os.path.relpath(job.folder, config.paths.results),
                state="there" if job.finished else "left out" if left_out else "waiting",
                ending=before.ending if before and left_out and not job.finished else None,
                estimate_seconds=job.estimate if estimate is None else estimate,
            )
        )
    return SweepRecord(
        name=folder.name,
        command=command,
        swept=tuple(swept),
        launcher=config.launcher.name,
        slots=engine.slots,
        host=socket.gethostname(),
        pid=os.getpid(),
        began=ledger.now(),
        heartbeat=ledger.now(),
        ended=None,
        jobs=tuple(records),
    )


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """The sweep's folder, for this process alone.

    Raises:
        UserError: another process sees to this sweep.
    """
    try:
        with exclusive(folder):
            yield
    except Busy as error:
        raise UserError(
            f"the sweep in {folder} is at work already ({error.holder}): ader sweep status shows it; give "
            "sweep=NAME for one of its own"
        ) from error
