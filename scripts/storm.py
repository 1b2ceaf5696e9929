"""Ten runs at a time in one results tree, killed at random moments, and a reader of the tree beside them.

    python scripts/storm.py --minutes 5 --markdown results/bench/storm.md --json results/bench/storm.json

Runs of a few configurations are started again and again (forked from this process, which has imported everything);
most of them are killed (SIGKILL) at a random moment, one of four is given while the same one is at work. Finished ones
are given again too, or evaluated again, which replaces their result. A reader goes through the tree all the while. In
the end every command is given once more and left alone. Then

- no start may have failed but by a kill, or because another run was at work in its folder;
- the reader found every result whole, always the same, and never gone again;
- all runs are finished, and found by a reader; nothing is left beside them (temporary files);
- tables and weights are equal, bit for bit, to those of runs that nobody disturbed.

Exit status 1: something of that was not so. Give OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ader.results.tree import result_folders
from ader.testing.toy import write_mvtec
from scripts.storm_reader import Reader, Seen, read_on
from scripts.torture import SECONDS, Kind, Process, differences, import_everything

SLOTS = 10
SHARE_KILLED, SHARE_FIGHTS, SHARE_DONE = 0.6, 0.25, 0.4
KINDS: dict[str, tuple[str, ...]] = {
    "patchcore": (),
    "invad_lite": (),
    "rd": ("trainer.workers=1",),
    "simplenet": ("dataset.cache=on",),
}
SMALL = {
    "recipe": "small",
    "image_size": "64",
    "trainer.epochs": "2",
    "trainer.max_steps": "6",
    "trainer.workers": "0",
    "trainer.checkpoint_minutes": "0",
    "trainer.device": "cpu",
    "dataset.cache": "off",
}


@dataclass(frozen=True)
class Job:
    """A configuration, which has one folder."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.method}-{self.seed}"

    def words(self, data: Path, root: Path) -> list[str]:
        """The command that trains it, with results and cache in ``root``."""
        given = SMALL | dict(word.split("=") for word in KINDS[self.method])
        return [
            *(f"method={self.method}", f"seed={self.seed}", f"run={self.name}"),
            *("dataset=folder", f"dataset.root={data}", "dataset.label=toy"),
            *(f"paths.results={root / 'results'}", f"paths.cache={root / 'cache'}"),
            *(f"{key}={value}" for key, value in given.items()),
        ]

    def folder(self, root: Path) -> Path | None:
        """With its result; None before there is one."""
        return next((root / "results").glob(f"*/*/{self.method}/{self.name}"), None)

    def again(self, root: Path) -> list[str]:
        """The command that evaluates it again, with one table more."""
        return ["eval", str(self.folder(root)), "metric.by_defect=true", f"paths.cache={root / 'cache'}"]


@dataclass
class Start:
    """A command that was given.

    Attributes:
        job: whose.
        process: it.
        began, ended: seconds.
        kill: when it is to be killed; None: not at all.
        killed: whether that was done.
        status: its exit status; None: it is at work.
    """

    job: Job
    process: Process
    began: float
    kill: float | None
    ended: float = float("inf")
    killed: bool = False
    status: int | None = None


class Storm:
    """The runs of a storm.

    Args:
        jobs: what may be started.
        data: the dataset.
        root: a folder for results, cache and logs.
        seed: of the moments.
    """

    def __init__(self, jobs: Sequence[Job], data: Path, root: Path, seed: int) -> None:
        self.jobs, self.data, self.root, self.rng = jobs, data, root, random.Random(seed)
        self.starts: list[Start] = []
        self.seconds = [10.0]  # that runs took which were not killed

    def rage(self, seconds: float) -> None:
        """Starts and kills for so long; in the end all are killed."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            at_work = self._look(now)
            if len(at_work) < SLOTS:
                self._start(at_work, now)
            time.sleep(0.01)
        for start in self._look(now):
            self._kill(start)
        while self._look(time.monotonic()):
            time.sleep(0.01)

    def _look(self, now: float) -> list[Start]:
        """Those at work, after a look at which ended, and killing those whose moment has come."""
        at_work = [start for start in self.starts if start.status is None]
        for start in at_work:
            start.status = start.process.wait(0)
            if start.status is not None:
                start.ended = now
                if start.status == 0 and not start.killed:
                    self.seconds.append(now - start.began)
            elif start.kill is not None and now > start.kill and not start.killed:
                self._kill(start)
        return [start for start in at_work if start.status is None]

    def _kill(self, start: Start) -> None:
        start.killed = True
        start.process.kill(self.rng.choice(["main", "all"]), self.rng)

    def _start(self, at_work: Sequence[Start], now: float) -> None:
        busy = {start.job for start in at_work}
        done = {start.job for start in self.starts if start.status == 0}
        fights = busy and self.rng.random() < SHARE_FIGHTS
        free = [job for job in self.jobs if job not in busy]
        fresh = [job for job in free if job not in done]
        if fights or not free:
            choice = sorted(busy, key=lambda job: job.name)
        else:
            choice = fresh if fresh and self.rng.random() > SHARE_DONE else free
        job = self.rng.choice(choice)
        words = job.again(self.root) if job in done and self.rng.random() < 0.5 else job.words(self.data, self.root)
        usual = sorted(self.seconds)[len(self.seconds) // 2]
        kill = now + self.rng.uniform(0, 1.5 * usual) if self.rng.random() < SHARE_KILLED else None
        log = self.root / "logs" / f"{len(self.starts)}"
        self.starts.append(Start(job, Process(Kind("storm", lambda _: words), words, log), now, kill))


def in_turn(commands: Sequence[Sequence[str]], logs: Path) -> None:
    """Gives commands, two at a time, that must succeed."""
    logs.mkdir(parents=True, exist_ok=True)
    waiting, at_work = list(enumerate(commands)), list[tuple[Process, float]]()
    while waiting or at_work:
        while waiting and len(at_work) < 2:
            number, words = waiting.pop(0)
            at_work.append((Process(Kind("alone", lambda _: []), words, logs / str(number)), time.monotonic()))
        for each in list(at_work):
            process, began = each
            status = process.wait(0.05)
            if status is not None:
                at_work.remove(each)
            if status or time.monotonic() - began > SECONDS:
                sys.exit(f"left alone, a run ended with status {status}:\n{process.log.read_text()[-1000:]}")


def finish(jobs: Sequence[Job], data: Path, root: Path) -> None:
    """Brings all jobs to their end: trained, and evaluated again."""
    in_turn([job.words(data, root) for job in jobs], root / "alone")
    in_turn([job.again(root) for job in jobs], root / "again")


def judge_starts(starts: Sequence[Start]) -> list[str]:
    """What ended otherwise than by its kill, well, or because its folder was held; a line each."""
    faults = []
    for start in starts:
        text = start.process.log.read_text(errors="replace")
        where = f"{start.job.name}, {start.process.log.name}"
        refused = start.status == 2 and "another run is at work in" in text
        rivals = [
            each
            for each in starts
            if each is not start and each.job == start.job and each.began <= start.ended and each.ended >= start.began
        ]
        if refused and not rivals:
            faults.append(f"{where}: refused by nobody: {text[-300:]}")
        elif not refused and start.status not in ((0, -signal.SIGKILL) if start.killed else (0,)):
            faults.append(f"{where}: status {start.status}: {text[-300:]}")
    return faults


def judge_tree(jobs: Sequence[Job], root: Path, alone: Path, seen: Seen) -> list[str]:
    """What is wrong with the tree after all commands were given once more; a line each.

    Args:
        jobs: that were given.
        root: has the tree that the storm was in.
        alone: has the one of runs that were left alone.
        seen: by the reader.
    """
    faults = list(seen.faults)
    found = set(result_folders(root / "results"))
    for job in jobs:
        mine, theirs = job.folder(root), job.folder(alone)
        assert theirs is not None
        if mine not in found or mine is None:
            faults.append(f"{job.name}: no reader of the tree finds it")
            continue
        faults += [f"{job.name}: {line}" for line in differences(theirs, mine)]
    faults += [f"{file.relative_to(root)} is left" for file in sorted((root / "results").rglob(".*.tmp"))]
    faults += [
        f"{name} was seen with {len(versions)} contents"
        for name, versions in seen.versions.items()
        if len(versions) > 1
    ]
    last = Reader(root / "results")
    last.look()
    return faults + last.seen.faults


def figures(starts: Sequence[Start], seen: Seen, faults: Sequence[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """What is reported."""
    ends = Counter(
        "killed" if start.status == -signal.SIGKILL else "refused" if start.status == 2 else "ended" for start in starts
    )
    return {
        **about,
        "jobs": len({start.job for start in starts}),
        "starts": len(starts),
        "killed": ends["killed"],
        "refused": ends["refused"],
        "ended": ends["ended"],
        "reader_rounds": seen.rounds,
        "reader_results": seen.results,
        "reader_held": seen.held,
        "faults": list(faults),
    }


TEXT = """# Storm

Made by `scripts/storm.py` (seed {seed}; {slots} runs at a time for {minutes:g} minutes, {jobs} configurations).
{starts} commands were given: {killed} were killed (SIGKILL) at a random moment, {refused} were refused because another
run was at work in their folder, {ended} came to their end. Meanwhile a reader went {reader_rounds} times through the
tree; it read {reader_results} results and {reader_held} times found someone at work. Then every command was given once
more, and every run evaluated again.

Looked for: results that were half written, mixed, changed or gone again; runs that no reader finds; temporary files;
tables and weights that are not, bit for bit, those of undisturbed runs; starts that failed otherwise than by a kill.

Faults: {count}
"""


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of storm (default 5)")
    parser.add_argument("--seeds", type=int, default=2, help="of each method (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--markdown", type=Path, help="also write a report here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    choice = parser.parse_args()
    import_everything()
    root = Path(tempfile.mkdtemp(prefix="storm-"))
    data = write_mvtec(root / "toy", train=6, good=3, bad=3, size=40)
    jobs = [Job(method, seed) for seed in range(choice.seeds) for method in KINDS]
    tree, alone, output = root / "storm", root / "alone", root / "seen.json"
    (tree / "logs").mkdir(parents=True)
    storm = Storm(jobs, data, tree, choice.seed)
    reader = read_on(tree / "results", output)
    storm.rage(60 * choice.minutes)
    print(f"{len(storm.starts)} starts; now every run once more, and in peace", flush=True)
    finish(jobs, data, tree)
    os.kill(reader, signal.SIGTERM)
    os.waitpid(reader, 0)
    finish(jobs, data, alone)
    seen = Seen(**json.loads(output.read_text()))
    faults = judge_starts(storm.starts) + judge_tree(jobs, tree, alone, seen)
    about = {"seed": choice.seed, "slots": SLOTS, "minutes": choice.minutes, "cores": os.cpu_count()}
    found = figures(storm.starts, seen, faults, about)
    text = TEXT.format(**found, count=len(faults))
    print(text, *faults, sep="\n")
    if choice.markdown:
        choice.markdown.write_text(text, encoding="utf-8")
    if choice.json:
        choice.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if faults:
        print(f"all is kept in {root}")
    else:
        shutil.rmtree(root)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
