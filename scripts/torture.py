"""Kills every kind of run at random moments; the same command must then end as an undisturbed run does.

    python scripts/torture.py --kills 3 --markdown results/bench/kills.md

Each kind of run is small and has decoding workers where it can. It is killed (SIGKILL) as one process, as all its
processes at once, and through one of its other processes, in turn. Then the command is given again, at once, and must

- start: no lock may outlive its run;
- end with status 0, with tables, scores, maps and weights that are equal, bit for bit;
- leave nothing: no temporary file, no process, nothing in /dev/shm.

Exit status 1: something of that was not so. All but the runs of two processes are forked from this process, which has
imported everything: a kill in the first seconds would only hit imports. Give OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

import ader
from ader.__main__ import main as command_line
from ader.config.options import options
from ader.testing.toy import write_mvtec

WAYS = ("main", "all", "other")
COMPARED = {".csv", ".npy", ".png", ".pt"}
SECONDS = 300  # for a run: longer is a hang
TOKEN = "ADER_TORTURE"
SMALL = (
    *("recipe=small", "image_size=64", "trainer.epochs=2", "trainer.max_steps=6", "trainer.workers=2"),
    *("trainer.checkpoint_minutes=0", "trainer.device=cpu", "dataset.cache=off"),
)
SETTINGS = {
    "wrn_classifier": ["setting=labeled", "setting.k=1"],
    "segad": ["setting=supervised", "setting.source=test", "setting.shots=1", "setting.detector_share=0.5"],
}


@dataclass
class Kind:
    """A kind of run.

    Attributes:
        name: of it.
        words: gives the command's words, in the folder that it gets.
        before: commands that are left alone, likewise.
        processes: torchrun's, where more than one.
    """

    name: str
    words: Callable[[Path], list[str]]
    before: Sequence[Callable[[Path], list[str]]] = ()
    processes: int = 1


@dataclass
class Outcome:
    """What came of one kind."""

    name: str
    seconds: float
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    equal: int = 0
    alone: int = 0  # times that it had no other process, from the moment on
    faults: list[str] = field(default_factory=list)


class Process:
    """A run under way, with all processes that belong to it."""

    def __init__(self, kind: Kind, words: Sequence[str], log: Path) -> None:
        self.token, self.log = f"{TOKEN}={random.random()}", log
        if kind.processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            launch = ["-m", "torch.distributed.run", f"--nproc-per-node={kind.processes}", f"--master-port={port}"]
            environment = {**os.environ, TOKEN: self.token.partition("=")[2]}
            with log.open("w") as file:
                command = [sys.executable, *launch, "-m", "ader", *words]
                started = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
            self.number = started.pid
        else:
            self.number = os.fork()
            if self.number == 0:
                os.setsid()
                descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for stream in (1, 2):
                    os.dup2(descriptor, stream)
                status = 1
                try:
                    status = command_line(words)
                finally:
                    sys.stdout.flush()
                    os._exit(status)

    def wait(self, seconds: float) -> int | None:
        """Its exit status (negative: the signal that ended it); None: not over yet."""
        until = time.monotonic() + seconds
        while True:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > until:
                return None
            time.sleep(0.002)

    def processes(self) -> list[int]:
        """Those that are alive: of its session, or started with its mark."""
        return [number for number in _running() if _session(number) == self.number or self._marked(number)]

    def _marked(self, number: int) -> bool:
        try:
            return self.token.encode() in Path(f"/proc/{number}/environ").read_bytes()
        except OSError:
            return False

    def others(self) -> list[int]:
        """Its processes but the first."""
        return [number for number in self.processes() if number != self.number]

    def meet(self, seconds: float) -> bool:
        """Waits for it to have others; whether it has."""
        until = time.monotonic() + seconds
        while not self.others():
            if _session(self.number) is None or time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def kill(self, way: str, rng: random.Random) -> None:
        """Kills it in this way."""
        others = self.others()
        chosen = {"main": [self.number], "all": [self.number, *others], "other": others and [rng.choice(others)]}[way]
        for number in chosen:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def _running() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _session(number: int) -> int | None:
    """A process's session; None where it is gone, or has ended and was not asked for its status."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[3])


def kinds(data: Path) -> list[Kind]:
    """Every kind of run."""

    def run(*more: str) -> Callable[[Path], list[str]]:
        where = ["dataset=folder", f"dataset.root={data}"]
        return lambda folder: [
            *where,
            f"paths.results={folder / 'results'}",
            f"paths.cache={folder / 'cache'}",
            *SMALL,
            "run=r",
            *more,
        ]

    def trained(folder: Path) -> str:
        (found,) = (folder / "results").rglob("checkpoint.pt")
        return str(found.parent)

    every = [Kind(name, run(f"method={name}", *SETTINGS.get(name, []))) for name in options("method")]
    return [
        *every,
        Kind("a model per category", run("method=rd", "setting=single_class")),
        Kind("image cache", run("method=patchcore", "dataset.cache=on")),
        Kind("maps saved", run("method=patchcore", "save_maps=true", "metric.by_defect=true")),
        Kind(
            "eval",
            lambda folder: ["eval", trained(folder), "metric.by_defect=true", "save_maps=true"],
            [run("method=rd")],
        ),
        Kind(
            "score",
            lambda folder: [
                *("score", f"{trained(folder)}/maps", "dataset=folder", f"dataset.root={data}", "name=m", "run=r"),
                *(f"paths.results={folder / 'scored'}", f"paths.cache={folder / 'cache'}", "device=cpu"),
            ],
            [run("method=patchcore", "save_maps=true")],
        ),
        Kind(
            "data prepare",
            lambda folder: [
                *("data", "prepare", "dataset=demo", f"dataset.root={folder / 'demo'}", "dataset.size=128"),
                f"paths.cache={folder / 'cache'}",
            ],
        ),
        Kind("two processes", run("method=rd", "method.batch_size=4"), processes=2),
        Kind("two processes in a pass", run("method=patchcore", "method.batch_size=4"), processes=2),
        Kind("three processes", run("method=rd", "method.batch_size=6"), processes=3),
        Kind(
            "eval, two processes",
            lambda folder: ["eval", trained(folder), "metric.by_defect=true", "save_maps=true"],
            [run("method=rd")],
            processes=2,
        ),
    ]


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="KIND", help="default: all")
    parser.add_argument("--kills", type=int, default=3, help="of each kind (default 3: one in each way)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    choice = parser.parse_args()
    import_everything()
    root = Path(tempfile.mkdtemp(prefix="torture-"))
    data = write_mvtec(root / "toy", train=6, good=3, bad=3, size=40)
    known = kinds(data)
    unknown = sorted(set(choice.names) - {kind.name for kind in known})
    if unknown:
        parser.error(f"there is no kind {', '.join(unknown)}: choose from {', '.join(kind.name for kind in known)}")
    rng, outcomes = random.Random(choice.seed), []
    for kind in known:
        if not choice.names or kind.name in choice.names:
            outcomes.append(torture(kind, root / kind.name.replace(" ", "_"), choice.kills, rng))
            print(row(outcomes[-1]), *outcomes[-1].faults, sep="\n  ", flush=True)
    faults = sum(len(outcome.faults) for outcome in outcomes)
    print(f"{sum(sum(each.kills.values()) for each in outcomes)} kills, {faults} faults", flush=True)
    if choice.markdown:
        choice.markdown.write_text(report(outcomes, choice.seed), encoding="utf-8")
    if not faults:
        shutil.rmtree(root)
    return int(bool(faults))


def import_everything() -> None:
    """So that what is forked from this process is at work at once."""
    for module in pkgutil.walk_packages(ader.__path__, "ader."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("timm", "tensorboard", "torch.utils.tensorboard", "xgboost", "sklearn.metrics", "pandas", "hydra"):
        importlib.import_module(name)


def torture(kind: Kind, folder: Path, kills: int, rng: random.Random) -> Outcome:
    """Kills one kind of run ``kills`` times."""
    whole = folder / "whole"
    seconds = undisturbed(kind, whole)
    outcome = Outcome(kind.name, seconds)
    way: str | None
    number = tries = 0
    while number < kills and not outcome.faults:
        tries += 1
        broken = folder / f"broken{tries}"
        way = WAYS[number % len(WAYS)]
        if outcome.alone > 3:  # a kind of run without workers
            way = way.replace("other", "main")
        way = once(kind, broken, way, rng.uniform(0, seconds * 0.9**tries), rng, outcome)
        if way is None:  # it was over before
            if tries > kills + 20:
                outcome.faults.append("it was always over before it was to be killed")
            continue
        number += 1
        outcome.kills[way] += 1
        different = differences(whole, broken)
        outcome.faults += different
        outcome.equal += not different
        if not outcome.faults:
            shutil.rmtree(broken)
    return outcome


def undisturbed(kind: Kind, folder: Path) -> float:
    """Seconds of the run that is left alone."""
    prepare(kind, folder)
    began = time.monotonic()
    status = Process(kind, kind.words(folder), folder / "log").wait(SECONDS)
    if status != 0:
        sys.exit(f"{kind.name}: status {status} when left alone:\n{(folder / 'log').read_text()}")
    return time.monotonic() - began


def prepare(kind: Kind, folder: Path) -> None:
    """Makes the folder, and what the kind needs in it."""
    folder.mkdir(parents=True)
    for words in kind.before:
        status = Process(Kind("before", words), words(folder), folder / "log").wait(SECONDS)
        if status != 0:
            sys.exit(f"{kind.name}: what comes before it failed:\n{(folder / 'log').read_text()}")


def once(kind: Kind, folder: Path, way: str, moment: float, rng: random.Random, outcome: Outcome) -> str | None:
    """Kills the run after so many seconds and starts it again at once; the way in which it was killed."""
    prepare(kind, folder)
    shared = set(os.listdir("/dev/shm"))
    words = kind.words(folder)
    first = Process(kind, words, folder / "log")
    if first.wait(moment) is not None:
        shutil.rmtree(folder)
        return None
    if way == "other" and not first.meet(SECONDS):
        first.wait(SECONDS)
        outcome.alone += 1
        shutil.rmtree(folder)
        return None
    first.kill(way, rng)
    where = f"{way} killed after {moment:.2f} of {outcome.seconds:.2f} s"
    status = first.wait(60)
    if status == 0:  # in the instant before
        shutil.rmtree(folder)
        return None
    if status is None or (way != "other" and status != -signal.SIGKILL):
        outcome.faults.append(f"{where}: status {status} after a minute")
    elif status not in (1, -signal.SIGKILL):
        outcome.faults.append(f"{where}: status {status}: {first.log.read_text()[-300:]}")
    second = Process(kind, words, folder / "log2")
    status = second.wait(SECONDS)
    if status != 0:
        outcome.faults.append(f"{where}: then status {status}: {second.log.read_text()[-300:]}")
    until = time.monotonic() + 5
    while (left := [*first.processes(), *second.processes()]) and time.monotonic() < until:
        time.sleep(0.05)
    outcome.faults += [f"{where}: process {number} is left" for number in left]
    mine = {name for name in set(os.listdir("/dev/shm")) - shared if name.startswith(("torch_", "sem."))}
    outcome.faults += [f"{where}: /dev/shm/{name} is left" for name in mine]
    return way


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two folders, a line each."""
    found = [f"{path.relative_to(other)} is left" for path in other.rglob(".*") if path.name != ".lock"]
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in COMPARED}
        for folder in (one, other)
    ]
    if not names[0]:
        found.append("nothing to compare")
    found += [f"{name} is in one of them only" for name in sorted(names[0] ^ names[1])]
    return found + [f"{name} differs" for name in sorted(names[0] & names[1]) if not _same(one / name, other / name)]


def _same(one: Path, other: Path) -> bool:
    if one.name != "checkpoint.pt":  # which holds seconds, too
        return one.suffix == ".pt" or one.read_bytes() == other.read_bytes()
    states = [torch.load(path, map_location="cpu", weights_only=True)["method"] for path in (one, other)]
    if states[0].keys() != states[1].keys():
        return False
    pairs = [(states[0][name], states[1][name]) for name in states[0]]
    return all(torch.equal(*pair) if isinstance(pair[0], torch.Tensor) else pair[0] == pair[1] for pair in pairs)


def row(outcome: Outcome) -> str:
    """A line of the table."""
    counts = " | ".join(str(outcome.kills[way]) for way in WAYS)
    return f"| {outcome.name} | {outcome.seconds:.1f} | {counts} | {outcome.equal} | {len(outcome.faults)} |"


HEAD = """# Kills

Made by `scripts/torture.py` (seed {seed}). Every kind of run, killed at a random moment (SIGKILL) as its main process,
as all of its processes at once, or through one of its others (decoding workers; torchrun's), and given again at once.
Equal: it ended with status 0, and tables, scores, maps and weights were those of an undisturbed run, bit for bit.
Faults are differences, refused starts, and processes, temporary files and shared memory that were left.

| run | seconds undisturbed | main process | all processes | another process | equal | faults |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def report(outcomes: Sequence[Outcome], seed: int) -> str:
    """The table, in Markdown."""
    kills = sum(sum(outcome.kills.values()) for outcome in outcomes)
    equal = sum(outcome.equal for outcome in outcomes)
    lines = [HEAD.format(seed=seed), *(row(outcome) + "\n" for outcome in outcomes)]
    return "".join([*lines, f"\n{kills} kills, {equal} equal.\n"])


if __name__ == "__main__":
    sys.exit(main())
