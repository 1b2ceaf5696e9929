"""What ``sweep.json`` holds, as types: the jobs of a sweep, where each of them is, and why those ended that failed.

Times are UTC, ISO 8601; seconds are of wall-clock time.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from pydantic.dataclasses import dataclass

from ader.results.schema import PLAIN

#: Changes when a reader has to change.
SCHEMA = 1

#: Why a job ended without a result. ``raised``: an error; ``input``: something for the user to fix; ``memory``: none
#: was left; ``killed``: by a signal; ``limit``: its time was over; ``hung``: it did nothing any more; ``no result``: it
#: said that all was well; ``lost``: its machine is gone; ``stopped``: the sweep was; ``busy``: another run is at work
#: in its folder.
Failure = Literal["raised", "input", "memory", "killed", "limit", "hung", "no result", "lost", "stopped", "busy"]

#: Where a job is. ``queued``: the engine has it, and has not begun; ``there``: its result was made before; and
#: ``left out``: not to be tried again (``retry``).
State = Literal["waiting", "queued", "running", "done", "there", "failed", "stopped", "left out"]


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Ending:
    """How a job ended."""

    kind: Failure | Literal["done"]
    """``done``, or why not."""

    reason: str = ""
    """In one line; empty where it is done."""

    lines: tuple[str, ...] = ()
    """The last lines that it printed; none where it is done."""

    seconds: float = 0.0
    """How long it was at work."""

    memory_bytes: int = 0
    """Largest resident memory that was seen, all its processes together."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class JobRecord:
    """One job."""

    number: int
    """From 1, in the order of the command line."""

    words: tuple[str, ...]
    """Its own words: ``ader WORDS`` is the same run."""

    title: str
    """Dataset, setting, method and run."""

    folder: str
    """Of its result, relative to the results tree."""

    state: State = "waiting"
    """Where it is."""

    ending: Ending | None = None
    """How its last attempt ended."""

    attempts: int = 0
    """How often it was started by this invocation."""

    began: str | None = None
    """When its last attempt was started."""

    where: str | None = None
    """What it runs on: a GPU, a machine, a job of Slurm's."""

    estimate_seconds: float | None = None
    """How long it may take, from the trial before the sweep or from a finished run that is like it."""

    trial_bytes: int | None = None
    """Peak memory of the trial before the sweep."""

    notes: tuple[str, ...] = ()
    """What was done about it, such as a smaller test batch after it was out of memory."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class SweepRecord:
    """One sweep."""

    name: str
    """Of its folder."""

    command: str
    """As it was typed."""

    swept: tuple[str, ...]
    """The keys in which the jobs differ."""

    launcher: str
    """Where the jobs run."""

    slots: int | None
    """How many at once; null where another program decides."""

    host: str
    """The machine of the process that sees to it."""

    pid: int
    """Of that process."""

    began: str
    """When the present invocation began."""

    heartbeat: str
    """When that process was last known to be alive."""

    ended: str | None
    """When it ended; null while it is at work, and after it was killed."""

    jobs: tuple[JobRecord, ...]
    """All of them."""

    schema: int = SCHEMA
    """Version of this layout."""

    @property
    def tally(self) -> Mapping[State, int]:
        """How many jobs are in each state."""
        return Counter(job.state for job in self.jobs)


def changed(job: JobRecord, **values: object) -> JobRecord:
    """The same job with other values."""
    return dataclasses.replace(job, **values)  # type: ignore[arg-type]
