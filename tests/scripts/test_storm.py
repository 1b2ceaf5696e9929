"""The storm's judgement: each fault that it looks for is found where it is planted."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

from ader.results import record
from scripts.storm import Job, Start, figures, judge_starts, judge_tree
from scripts.storm_reader import Reader, Seen
from tests.support.records import a_record

JOB = Job("rd", 1)


def place(root):
    return root / "results" / "toy" / "multi_class" / "rd" / "rd-1"


def write(root, value=0.5):
    folder = place(root)
    frame = pd.DataFrame({"image_auroc": [value]}, index=["mean"])
    files = {f"{name}.csv": record.as_csv(frame) for name in ("metrics", "bounds", "counts")}
    record.write(folder, files, a_record(rows={"mean": {"image_auroc": value}}))
    torch.save({"method": {"w": torch.full((2,), value)}}, folder / "checkpoint.pt")
    (folder / ".lock").touch()


@pytest.fixture
def roots(tmp_path):
    """A tree after a storm, and one of runs that were left alone."""
    for name in ("storm", "alone"):
        write(tmp_path / name)
    return tmp_path / "storm", tmp_path / "alone"


def test_a_tree_without_faults(roots):
    assert judge_tree([JOB], *roots, Seen()) == []


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda folder: (folder / "record.json").unlink(), "no reader of the tree finds it"),
        (lambda folder: shutil.rmtree(folder), "no reader of the tree finds it"),
        (lambda folder: (folder / ".x.csv.1.tmp").touch(), "is left"),
        (lambda folder: (folder.parents[1] / ".x.tmp").touch(), "is left"),
        (lambda folder: (folder / "bounds.csv").write_text("category,x\nmean,1\n"), "bounds.csv differs"),
        (
            lambda folder: torch.save({"method": {"w": torch.zeros(2)}}, folder / "checkpoint.pt"),
            "checkpoint.pt differs",
        ),
        (lambda folder: os.truncate(folder / "record.json", 40), "not valid JSON"),
        (lambda folder: write(folder.parents[4], 0.25), "metrics.csv differs"),
        (
            lambda folder: (folder / "metrics.csv").write_text("category,image_auroc\nmean,1\n"),
            "do not belong together",
        ),
    ],
)
def test_what_is_wrong_with_a_tree(roots, harm, fault):
    harm(place(roots[0]))
    assert fault in "; ".join(judge_tree([JOB], *roots, Seen()))


def test_what_the_reader_saw_counts(roots):
    seen = Seen(faults=["old beside new"], versions={"a.csv": ["1"], "b.csv": ["1", "2"]})
    assert judge_tree([JOB], *roots, seen) == ["old beside new", "b.csv was seen with 2 contents"]


def test_the_reader_remembers(roots):
    reader = Reader(roots[0] / "results")
    reader.look()
    assert (reader.seen.faults, reader.seen.results, reader.seen.rounds) == ([], 1, 1)
    write(roots[0], 0.25)
    (place(roots[0]) / "config.yaml").write_text("[")
    reader.look()
    assert "config.yaml" in reader.seen.faults[0]
    assert {len(versions) for versions in reader.seen.versions.values()} == {2}
    (place(roots[0]) / "record.json").unlink()
    reader.look()
    assert reader.seen.faults[1:] == [f"{place(roots[0])}: the result is gone"]


@dataclass
class Ended:
    """What is looked at of a process that is over."""

    log: Path


def start(folder, status, text="", began=0.0, ended=1.0, killed=False, job=JOB):
    log = folder / f"{status} {began}"
    log.write_text(text)
    return Start(job, Ended(log), began, kill=None, ended=ended, killed=killed, status=status)


BUSY = "ader: error: another run is at work in x: wait for it"


@pytest.mark.parametrize(
    ("status", "text", "rival", "killed", "fault"),
    [
        (0, "", None, False, ""),
        (1, "ader: unexpected", None, False, "status 1: ader: unexpected"),
        (1, "ader: unexpected", None, True, "status 1"),
        (-signal.SIGKILL, "", None, True, ""),
        (-signal.SIGKILL, "", None, False, "status -9"),
        (2, BUSY, 0.5, False, ""),
        (2, BUSY, 5.0, False, "refused by nobody"),
        (2, BUSY, None, True, "refused by nobody"),
        (2, "ader: error: x", 0.5, False, "status 2"),
    ],
)
def test_how_a_start_may_end(tmp_path, status, text, rival, killed, fault):
    """``rival``: when another start of the same job began, if there was one; one of another job says nothing."""
    starts = [start(tmp_path, status, text, killed=killed), start(tmp_path, 0, began=0.2, job=Job("rd", 2))]
    if rival is not None:
        starts.append(start(tmp_path, 0, began=rival, ended=rival + 1))
    faults = judge_starts(starts)
    assert (fault in faults[0]) if fault else faults == []


def test_figures(tmp_path):
    starts = [start(tmp_path, status, began=number) for number, status in enumerate((0, 0, 2, -9, -9, -9))]
    found = figures(starts, Seen(rounds=7), ["x"], {"seed": 3})
    assert (found["ended"], found["refused"], found["killed"], found["starts"], found["jobs"]) == (2, 1, 3, 6, 1)
    assert (found["seed"], found["reader_rounds"], found["faults"]) == (3, 7, ["x"])
