"""A whole sweep on this machine, with jobs that end in every way; and what stops a sweep before its first job."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ader.__main__ import main
from ader.results import record
from ader.sweeps import ledger
from tests.support.running import PLUGIN, Bench

FAULTS = ("raise", "exit", "quit", "kill", "hang", "memory", "test_memory")


class Sweeps(Bench):
    """Sweeps of the faulty method over toy data."""

    def words(self, *words: str, results: str = "results", method: str = "faulty") -> list[str]:
        fast = [
            "launcher.slots=2",
            "launcher.idle_minutes=0.15",
            "launcher.grace_seconds=0.5",
            "trainer.test_batch_size=8",
        ]
        return super().words(*fast, *words, results=results, method=method)

    def environment(self, faults: bool) -> dict[str, str]:
        (self.root / "faults").unlink(missing_ok=True)
        if faults:
            (self.root / "faults").touch()
        path = os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PYTHONPATH": path, "MADE_UP_FAULTS": str(self.root / "faults")}

    def start(self, *words: str, faults: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ader", "-m", *self.words(*words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=self.environment(faults))

    def sweep(self, *words: str, faults: bool = False) -> tuple[int, str]:
        process = self.start(*words, faults=faults)
        said, _ = process.communicate(timeout=240)
        return process.returncode, said

    def record(self) -> ledger.SweepRecord:
        (name,) = ledger.names(self.root / "results")
        return ledger.find(self.root / "results", name)[1]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Three invocations of one line: with faults, without, and once more."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        sweeps = Sweeps(tmp_path_factory.mktemp("sweeps"), monkeypatch)
        line = [f"method.how='',slow,{','.join(FAULTS)}", "seed=1,2"]
        told = [(*sweeps.sweep(*line, faults=number == 0), sweeps.record()) for number in range(3)]
        yield sweeps, told


def test_what_fails_has_its_reason_and_the_rest_goes_on(faulty):
    _, ((status, said, sweep), _, _) = faulty
    assert status == 1, said
    endings = {
        re.search(r"method\.how=(\S*)", " ".join(job.words))[1]: job for job in sweep.jobs if "seed=2" in job.words
    }
    assert {how: job.state for how, job in endings.items() if job.state == "done"} == dict.fromkeys(
        ("''", "slow", "test_memory"), "done"
    )
    kinds = {how: job.ending.kind for how, job in endings.items() if job.state == "failed"}
    assert kinds == {
        "raise": "raised",
        "exit": "no result",
        "quit": "no result",
        "kill": "killed",
        "hang": "hung",
        "memory": "memory",
    }
    assert "RuntimeError: planted" in endings["raise"].ending.reason
    assert "SIGKILL" in endings["kill"].ending.reason
    assert any("trainer.test_batch_size=2" in note for note in endings["test_memory"].notes)
    assert endings["test_memory"].attempts == 2
    assert all(job.ending.lines for job in sweep.jobs if job.state == "failed")
    assert "18 jobs: 6 done, 12 FAILED" in said
    for how in kinds:
        assert f"method.how={how} seed=2" in said


def test_the_same_line_runs_what_failed_and_nothing_else(faulty):
    sweeps, (_, (status, said, sweep), (again, said_again, _)) = faulty
    assert status == 0, said
    assert {job.state for job in sweep.jobs if job.attempts} == {"done"}
    assert sum(job.attempts for job in sweep.jobs) == 12
    assert sweep.tally == {"done": 12, "there": 6}
    assert again == 0
    assert "18 jobs: 18 there before" in said_again
    records = list((sweeps.root / "results").rglob(record.FILE))
    assert len(records) == 18
    table = (sweeps.root / "results" / "sweeps" / sweep.name / "metrics.csv").read_text()
    assert len(table.splitlines()) == 19


def test_other_terminals_see_it(faulty, capsys):
    sweeps, (_, _, (_, _, sweep)) = faulty
    assert main(["sweep", "status", f"paths.results={sweeps.root / 'results'}"]) == 0
    said = capsys.readouterr().out
    assert f"sweep {sweep.name}: 18 jobs" in said
    assert said.count("there before") == 19
    table = sweeps.root / "results" / "sweeps" / sweep.name / "metrics.csv"
    check = [
        "sweep",
        "check",
        sweep.name,
        str(sweeps.root / "expected.csv"),
        f"paths.results={sweeps.root / 'results'}",
    ]
    lines = table.read_text().splitlines()
    place = lines[0].split(",").index("image_auroc")
    cells = lines[1].split(",")
    cells[place] = str(float(cells[place]) + 0.02)
    (sweeps.root / "expected.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    assert main([*check, "tolerance=0.03"]) == 0
    assert main(check) == 1
    assert "image_auroc is " in capsys.readouterr().out


def test_all_that_is_wrong_is_said_before_the_first_job(tmp_path, monkeypatch, capsys):
    sweeps = Sweeps(tmp_path, monkeypatch)
    words = sweeps.words(
        "method=faulty,rdd,rd", "dataset.categories=[cable],[cabel]", "method.backbone.pretrained=true"
    )
    assert main(["-m", *words]) == 2
    said = capsys.readouterr().err
    assert "jobs 3, 4: method=rdd does not exist: did you mean 'rd'?" in said
    assert "job 2" in said
    assert "cabel" in said
    assert "nothing was started" in said
    assert not (tmp_path / "results").exists()


def test_signals_end_it_in_order_and_the_same_line_goes_on(tmp_path, monkeypatch):
    sweeps = Sweeps(tmp_path, monkeypatch)
    line = ["method.how=slow", "method.steps=100", "seed=1,2,3", "launcher.grace_seconds=60"]
    process = sweeps.start(*line, faults=True)
    await_steps(sweeps)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "running jobs write checkpoints" in said
    assert [job.state for job in sweeps.record().jobs] == ["stopped", "stopped", "waiting"]
    assert len(list((tmp_path / "results").rglob("checkpoint.pt"))) == 2
    status, said = sweeps.sweep(*line)
    assert status == 0, said
    logs = [file.read_text() for file in sorted((tmp_path / "results" / "sweeps").rglob("jobs/*.log"))]
    assert ["resuming from" in log for log in logs] == [True, True, False]


def test_jobs_write_checkpoints_when_the_sweep_is_killed(tmp_path, monkeypatch):
    sweeps = Sweeps(tmp_path, monkeypatch)
    process = sweeps.start("method.how=slow", "method.steps=200", "seed=1", faults=True)
    await_steps(sweeps)
    process.kill()
    process.communicate()
    until = time.monotonic() + 30
    while not list((tmp_path / "results").rglob("checkpoint.pt")) and time.monotonic() < until:
        time.sleep(0.1)
    assert list((tmp_path / "results").rglob("checkpoint.pt"))
    (log,) = (tmp_path / "results").rglob("jobs/*.log")
    assert "stopped by SIGTERM at step" in log.read_text()
    assert json.loads(next((tmp_path / "results").rglob("sweep.json")).read_text())["ended"] is None


def await_steps(sweeps: Sweeps) -> None:
    """Until all slots are in the midst of training."""
    until = time.monotonic() + 120
    running: list[Path] = []
    while time.monotonic() < until:
        running = [log for log in (sweeps.root / "results").rglob("run.log") if "method " in log.read_text()]
        if running and len(running) == len(list((sweeps.root / "results").rglob("jobs/*.log"))):
            time.sleep(1)
            return
        time.sleep(0.1)
    raise AssertionError("no job began to train")
