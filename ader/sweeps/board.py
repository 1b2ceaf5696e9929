"""What is seen of a sweep: a live table on a terminal, a line for each event elsewhere, a summary at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.live import Live
from rich.text import Text

from ader.report.renderers import terminal
from ader.report.tables import Column, Row, Table
from ader.results.sweeps.ledger import is_alive, seconds_since
from ader.results.sweeps.schema import JobRecord, State, SweepRecord
from ader.sweeps.numbers import label, metrics_tables
from ader.sweeps.task import last_lines
from ader.system.console import Console, duration

#: States in the order in which they are told, with the words for them.
STATES: dict[State, str] = {
    "done": "done",
    "there": "there before",
    "running": "running",
    "queued": "queued",
    "waiting": "waiting",
    "failed": "FAILED",
    "stopped": "stopped",
    "left out": "left out",
}

#: Lines of a live table that no job has: counts, headings, what waits.
OTHER_LINES = 8


class Board:
    """Shows a sweep while it is at work.

    Args:
        folder: of the sweep.
        console: for lines.
        live: the table on a terminal; None elsewhere.
    """

    def __init__(self, folder: Path, console: Console, live: Live | None) -> None:
        self.folder, self.console, self.live = folder, console, live
        self._told: dict[int, tuple[State, int]] = {}

    def show(self, sweep: SweepRecord) -> None:
        """The live table, as things are now."""
        if self.live is not None:
            self.live.update(Text.from_ansi(self._live(sweep, self.live.console.height, self.live.console.width)))

    def tell(self, job: JobRecord, sweep: SweepRecord) -> None:
        """One line about a job that has begun or ended; on a terminal only of what went wrong."""
        if self._told.get(job.number) == (job.state, job.attempts):
            return
        self._told[job.number] = job.state, job.attempts
        line = f"job {job.number} of {len(sweep.jobs)}  {label(job.words, sweep.swept)}  {told(job)}"
        if self.live is None or job.state in ("failed", "stopped") or job.notes:
            self.console.say(line)
        else:
            self.console.note(line)

    def _live(self, sweep: SweepRecord, height: int, width: int) -> str:
        room = max(3, height - OTHER_LINES)
        order = ("running", "queued", "waiting")
        shown = [job for state in order for job in sweep.jobs if job.state == state][:room]
        columns = (
            Column(""),
            Column("job", wrap="ellipsis"),
            Column("state"),
            Column("time", kind="number"),
            Column("", wrap="ellipsis"),
        )
        rows = []
        for job in shown:
            log = self.folder / "jobs" / f"{job.number:04d}.log"
            said = _until(job.estimate_seconds)
            if job.state == "running":
                said = " ".join("".join(last_lines(log, most=1)).split())
            rows.append(Row.of(str(job.number), label(job.words, sweep.swept), STATES[job.state], _took(job), said))
        return f"{headline(sweep)}\n\n{terminal(Table(columns, tuple(rows)), width=min(width, 160))}"


@contextmanager
def shown(sweep: SweepRecord, folder: Path, console: Console) -> Iterator[Board]:
    """A board for as long as the sweep is at work."""
    left = [job for job in sweep.jobs if job.state == "waiting"]
    console.say(f"sweep {sweep.name}: {counts(sweep)}; {len(left)} to run, {_at_once(sweep)}")
    if not console.rich.is_terminal:
        yield Board(folder, console, None)
        return
    with Live(console=console.rich, refresh_per_second=4, transient=True) as live:
        yield Board(folder, console, live)


def told(job: JobRecord) -> str:
    """A job's state in a few words."""
    match job.state, job.ending:
        case "failed", ending if ending is not None:
            return f"FAILED ({ending.kind}): {ending.reason}"
        case "waiting", ending if ending is not None and ending.kind == "busy":
            return "another run is at work on it: to be looked at again"
        case "waiting", _ if job.notes:
            return job.notes[-1]
        case "done", ending if ending is not None:
            return f"done in {duration(ending.seconds)}"
        case "running", _:
            return f"runs on {job.where}" if job.where else "runs"
    return STATES[job.state]


def headline(sweep: SweepRecord) -> str:
    """Where a sweep is, in a line."""
    line = f"sweep {sweep.name}: {counts(sweep)}"
    known = [job.estimate_seconds for job in sweep.jobs if job.state == "waiting"]
    if sweep.ended is None and known and None not in known:
        line += f"; about {duration(sum(filter(None, known)) / (sweep.slots or 1))} to go"
    return line


def counts(sweep: SweepRecord) -> str:
    """``12 jobs: 7 done, 3 running, 2 waiting``."""
    found = [f"{sweep.tally[state]} {words}" for state, words in STATES.items() if sweep.tally[state]]
    return f"{len(sweep.jobs)} job{'s' * (len(sweep.jobs) != 1)}: {', '.join(found)}"


def plan_text(sweep: SweepRecord) -> str:
    """Which jobs would run, for ``dry_run=true``."""
    columns = Column(""), Column("job"), Column(""), Column("estimate", kind="number"), Column("memory", kind="number")
    words: dict[State, str] = {"waiting": "would run", "there": "finished", "left out": "left out"}
    rows = [
        Row.of(
            str(job.number),
            label(job.words, sweep.swept),
            words.get(job.state, job.state),
            _until(job.estimate_seconds),
            "" if job.trial_bytes is None else f"{job.trial_bytes / 2**30:.1f} GiB",
        )
        for job in sweep.jobs
    ]
    return f"{headline(sweep)}, {_at_once(sweep)}\n\n{terminal(Table(columns, tuple(rows)))}"


def status_text(sweep: SweepRecord) -> str:
    """All jobs of a sweep, as another terminal may ask for them."""
    columns = Column(""), Column("job"), Column("state"), Column("time", kind="number"), Column("where, why")
    rows = []
    for job in sweep.jobs:
        failed = job.ending is not None and job.state not in ("done", "there", "running")
        detail = f"{job.ending.kind}: {job.ending.reason}" if failed and job.ending else job.where or ""
        rows.append(Row.of(str(job.number), label(job.words, sweep.swept), STATES[job.state], _took(job), detail))
    return "\n".join([headline(sweep), life(sweep), "", terminal(Table(columns, tuple(rows)))])


def life(sweep: SweepRecord) -> str:
    """Who sees to a sweep, and whether that process is alive."""
    who = f"{sweep.launcher}, process {sweep.pid} on {sweep.host}, since {_minute(sweep.began)}"
    if sweep.ended is not None:
        return f"ended {_minute(sweep.ended)} ({who}): {sweep.command}"
    heard = duration(max(0.0, seconds_since(sweep.heartbeat)))
    if is_alive(sweep):
        return f"at work ({who}; last heard of {heard} ago): {sweep.command}"
    return f"not heard of for {heard} ({who}): killed, or its machine is gone; to go on: {sweep.command}"


def summary(sweep: SweepRecord, folder: Path, results: Path) -> str:
    """The end of a sweep: what failed and why, and the numbers."""
    parts = [f"\n{counts(sweep)}"]
    for job in sweep.jobs:
        if job.state not in ("failed", "stopped") or job.ending is None:
            continue
        parts.append(f"\njob {job.number}  {label(job.words, sweep.swept)}\n  {job.ending.kind}: {job.ending.reason}")
        parts += [f"  {note}" for note in job.notes]
        parts += [f"  | {line}" for line in job.ending.lines if job.ending.reason not in line]
        parts.append(f"  all of it: {folder / 'jobs' / f'{job.number:04d}.log'}")
    parts += [f"\n{terminal(table)}" for table in metrics_tables(sweep, results)]
    left = sum(sweep.tally[state] for state in STATES if state not in ("done", "there"))
    if left:
        parts.append(f"\nthe same line again runs what is missing ({left})")
    return "\n".join([*parts, f"written to {folder}"])


def _at_once(sweep: SweepRecord) -> str:
    return f"{sweep.slots} at once" if sweep.slots else f"as {sweep.launcher} has room"


def _minute(time: str) -> str:
    return f"{time[:16].replace('T', ' ')} UTC"


def _took(job: JobRecord) -> str:
    if job.state == "running":
        return duration(seconds_since(job.began)) if job.began else ""
    return duration(job.ending.seconds) if job.ending and job.ending.seconds else ""


def _until(seconds: float | None) -> str:
    return "" if seconds is None else f"about {duration(seconds)}"
