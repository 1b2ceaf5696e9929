"""A sweep with planted failures, then the same line with nothing planted: what fails is told with its reason, the rest
goes on, and the second time only what failed is run.

    python -m scripts.planted launcher=local launcher.slots=2 --markdown results/bench/planted.md
    python -m scripts.planted launcher=slurm launcher.cluster=local
    python -m scripts.planted launcher=ray

Fourteen jobs: the test suite's faulty method in seven ways over two folders of toy images, in one of which an image is
truncated. Words after the script's name are the sweep's. Exit status 1: a job was not told as it had to be.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ader.report.renderers import markdown as pipe_table
from ader.report.tables import Column, Row, Table
from ader.results.sweeps import ledger
from ader.results.sweeps.schema import JobRecord, SweepRecord
from ader.testing.toy import write_mvtec

ROOT = Path(__file__).parents[1]
#: What is planted, and as what it must be told; of the truncated image it is always ``input``.
KINDS = {
    "''": "done",
    "raise": "raised",
    "exit": "no result",
    "kill": "killed",
    "hang": "hung",
    "memory": "memory",
    "test_memory": "done",
}


def main() -> int:
    """Runs the sweep three times and looks at what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="of the sweep, such as launcher=slurm")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        line = prepare(folder, options.words)
        sweeps = [run(folder, line, planted) for planted in (True, False, False)]
    table, wrong = judged(sweeps)
    text = f"# Planted failures\n\n`{' '.join(['ader -m', *options.words])}`\n\n{pipe_table(table)}\n"
    print(text)
    for problem in wrong:
        print(f"WRONG: {problem}")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    return 1 if wrong else 0


def prepare(folder: Path, words: Sequence[str]) -> list[str]:
    """Toy images, and the sweep's words."""
    for name in ("toy", "broken"):
        write_mvtec(folder / name, train=5, good=2, bad=2, size=40)
    return [
        *("method=faulty", f"method.how={','.join(KINDS)}", "dataset=folder"),
        f"dataset.root={folder / 'toy'},{folder / 'broken'}",
        *("image_size=32", "trainer.epochs=2", "trainer.workers=0", "trainer.device=cpu", "trainer.test_batch_size=8"),
        f"paths.results={folder / 'results'}",
        *("launcher.idle_minutes=0.2", "launcher.grace_seconds=1"),
        *words,
    ]


def run(folder: Path, line: Sequence[str], planted: bool) -> tuple[int, SweepRecord]:
    """One invocation of the line."""
    faults, image = folder / "faults", next((folder / "broken").rglob("train/good/*.png"))
    whole = next((folder / "toy").rglob(f"{image.parents[2].name}/train/good/{image.name}")).read_bytes()
    image.write_bytes(whole[: len(whole) // 2] if planted else whole)
    if planted:
        faults.touch()
    else:
        faults.unlink(missing_ok=True)
    path = os.pathsep.join([str(ROOT / "tests" / "support" / "plugin"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "MADE_UP_FAULTS": str(faults), "ADER_CACHE": str(folder / "cache")}
    status = subprocess.run([sys.executable, "-m", "ader", "-m", *line], env={**os.environ, **environment}).returncode
    names = ledger.names(folder / "results")
    if not names:
        sys.exit("the sweep did not begin")
    return status, ledger.find(folder / "results", names[0])[1]


def judged(sweeps: Sequence[tuple[int, SweepRecord]]) -> tuple[Table, list[str]]:
    """A row for each job, and what is not as it has to be."""
    wrong = [
        f"invocation {number} ended with status {status}"
        for number, ((status, _), expected) in enumerate(zip(sweeps, (1, 0, 0), strict=True), 1)
        if status != expected
    ]
    rows = []
    for first, second, third in zip(*(sweep.jobs for _, sweep in sweeps), strict=True):
        how, data = planted_in(first)
        expected = KINDS[how] if data == "toy" else "input"
        told = first.ending.kind if first.ending else first.state
        again = {"done": "there"}.get(expected, "done")
        if told != expected:
            wrong.append(f"job {first.number} ({how}, {data}) is told as {told}, not {expected}")
        if second.state != again or third.state != "there":
            wrong.append(f"job {first.number} ({how}, {data}) is {second.state} and {third.state} the next times")
        reason = re.sub(r"\S*/(?=\w)", "", first.ending.reason)[:110] if first.ending else ""
        rows.append(Row.of(str(first.number), how, data, told, reason, second.state, third.state))
    columns = ("job", "planted", "data", "told as", "reason", "second time", "third time")
    return Table(tuple(map(Column, columns)), tuple(rows)), wrong


def planted_in(job: JobRecord) -> tuple[str, str]:
    """How the job was to fail, and over which folder."""
    words: Mapping[str, str] = dict(word.split("=", 1) for word in job.words)
    return words["method.how"], Path(words["dataset.root"]).name


if __name__ == "__main__":
    sys.exit(main())
