"""What a sweep costs beside its jobs: how fast a job starts, and how busy its slots are.

    python -m benchmarks.sweeps --json results/bench/sweeps.json --markdown results/bench/sweeps.md

Start: seconds from the start of a process until a program's work could begin (``ader.runs.run`` is imported), from
scratch and forked from one that has imported torch, by turns. Overhead: a tiny run, alone as ``ader ...`` in a process
from scratch, and in a sweep of such runs that differ in their seed; the sweep's time from its first job to its last, as
a ratio to the jobs' own times in their slots, and to those alone, divided by the slots.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ader.report.renderers import markdown as pipe_table
from ader.report.tables import Table
from ader.results.outputs import Outputs
from ader.results.provenance import provenance
from ader.results.schema import plain
from ader.results.sweeps import ledger
from ader.sweeps.engine import Ended
from ader.sweeps.engines.local import Engine
from ader.sweeps.task import Task
from benchmarks._common import write_json

#: A run of a second or two: six categories of four images.
TINY = (
    *("experiment=demo", "dataset.size=32", "dataset.train=2", "dataset.test_good=1", "dataset.per_defect=1"),
    *("image_size=32", "trainer.workers=0", "trainer.device=cpu", "run=null"),
)


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=12, help="of the sweeps")
    parser.add_argument("--repeats", type=int, default=5, help="of each start, and of the run alone")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.slots, options.jobs, options.repeats)
    table = Table.of_figures(("what", "seconds", "ratio"), rows(figures))
    text = pipe_table(table)
    print(text)
    if options.markdown:
        options.markdown.write_text(f"{text}\n", encoding="utf-8")
    if options.json:
        write_json(options.json, {"figures": figures, "provenance": plain(provenance())})
    return 0


def measure(folder: Path, slots: int, jobs: int, repeats: int) -> dict[str, Any]:
    """All figures, in seconds."""
    os.environ |= {"ADER_DATA": str(folder / "data"), "ADER_CACHE": str(folder / "cache")}
    os.environ["OMP_NUM_THREADS"] = "1"
    alone = [run_alone(folder / f"alone{number}") for number in range(repeats + 1)][1:]  # the first makes the data
    scratch, forked = starts(folder, repeats)
    took, each = run_sweep(folder, slots, jobs)
    return {
        "slots": slots,
        "jobs": jobs,
        "start_from_scratch": scratch,
        "start_forked": forked,
        "alone": alone,
        "in_slots": each,
        "sweep": took,
    }


def rows(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Of the table: medians, and ratios to the line above or to what it says."""
    scratch, forked = (statistics.median(figures[name]) for name in ("start_from_scratch", "start_forked"))
    alone, each = statistics.median(figures["alone"]), statistics.median(figures["in_slots"])
    own = sum(figures["in_slots"]) / figures["slots"]
    best = alone * figures["jobs"] / figures["slots"]
    return [
        ("start from scratch", f"{scratch:.2f}", ""),
        ("start forked", f"{forked:.2f}", f"{forked / scratch:.2f} of from scratch"),
        ("a tiny run alone", f"{alone:.2f}", ""),
        ("the same in a slot", f"{each:.2f}", f"{each / alone:.2f} of alone"),
        (f"{figures['jobs']} of them in {figures['slots']} slots", f"{figures['sweep']:.2f}", ""),
        ("... of their own time in slots", f"{own:.2f}", f"{figures['sweep'] / own:.2f}"),
        ("... of their time alone, by slots", f"{best:.2f}", f"{figures['sweep'] / best:.2f}"),
    ]


def run_alone(results: Path) -> float:
    """Seconds of the tiny run, from scratch."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "ader", *TINY, f"paths.results={results}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def starts(folder: Path, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds until ``ader.runs.run`` is there: from scratch, and forked."""
    scratch, forked = list[float](), list[float]()
    engine = Engine(slots=1, gpus=[], threads=1)
    engine.open(folder)
    task = Task(number=1, words=("--version",), folder=folder / "none", outputs=Outputs(), log=folder / "start.log")
    _await(engine, task)  # the process that the others are forked from has imported everything then
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import ader.runs.run"], check=True)
        scratch.append(time.perf_counter() - began)
        forked.append(_await(engine, task))
    return scratch, forked


def _await(engine: Engine, task: Task) -> float:
    began = time.perf_counter()
    engine.start(task)
    while not any(isinstance(event, Ended) for event in engine.look(1.0)):
        pass
    return time.perf_counter() - began


def run_sweep(folder: Path, slots: int, jobs: int) -> tuple[float, Sequence[float]]:
    """Seconds from the begin of the first job to the end of the sweep, and those of each job."""
    results = folder / "sweep"
    words = [*TINY, f"paths.results={results}", f"seed=range(1,{jobs + 1})", f"launcher.slots={slots}"]
    subprocess.run([sys.executable, "-m", "ader", "-m", *words], check=True, stdout=subprocess.DEVNULL)
    (name,) = ledger.names(results)
    _, record = ledger.find(results, name)
    times = [datetime.fromisoformat(time) for time in (*(job.began for job in record.jobs), record.ended) if time]
    return (max(times) - min(times)).total_seconds(), [job.ending.seconds for job in record.jobs if job.ending]


if __name__ == "__main__":
    sys.exit(main())
