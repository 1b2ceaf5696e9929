"""A whole sweep on this machine, with jobs that end in every way; and what stops a sweep before its first job."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from ader.__main__ import main
from ader.results import record
from ader.results.sweeps import ledger
from ader.results.sweeps.schema import SweepRecord
from tests.support.commands import Command
from tests.support.running import Bench

FILE = "MADE_UP_FAULTS"
#: What the faulty method does, and what a sweep must say of it.
KINDS = {
    "raise": "raised",
    "exit": "no result",
    "quit": "no result",
    "kill": "killed",
    "hang": "hung",
    "memory": "memory",
}


class Sweeps(Bench):
    """Sweeps of the faulty method over toy data, of which this process takes care."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(root, monkeypatch)
        monkeypatch.setenv(FILE, str(root / "faults"))

    def words(self, *words: str, results: str = "results", method: str = "faulty") -> list[str]:
        fast = ["launcher.slots=2", "launcher.idle_minutes=0.15", "launcher.grace_seconds=0.5"]
        return super().words(*fast, "trainer.test_batch_size=8", *words, results=results, method=method)

    def sweep(self, *words: str, faults: bool = False) -> tuple[int, str]:
        """Status, and what was said."""
        (self.root / "faults").unlink(missing_ok=True)
        if faults:
            (self.root / "faults").touch()
        with redirect_stdout(StringIO()) as said:
            status = main(["-m", *self.words(*words)])
        return status, said.getvalue()

    @property
    def results(self) -> Path:
        return self.root / "results"

    def record(self) -> SweepRecord:
        """Of the only sweep."""
        (name,) = ledger.names(self.results)
        return ledger.find(self.results, name)[1]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Three invocations of one line: with faults, without, and once more."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        sweeps = Sweeps(tmp_path_factory.mktemp("sweeps"), monkeypatch)
        line = f"method.how='',{','.join(KINDS)},test_memory"
        told = [(*sweeps.sweep(line, faults=number == 0), sweeps.record()) for number in range(3)]
        yield sweeps, told


def test_what_fails_has_its_reason_and_the_rest_goes_on(faulty):
    _, ((status, said, sweep), _, _) = faulty
    assert status == 1, said
    jobs = {re.search(r"method\.how=(\S*)", " ".join(job.words))[1]: job for job in sweep.jobs}
    assert {how for how, job in jobs.items() if job.state == "done"} == {"''", "test_memory"}
    assert {how: job.ending.kind for how, job in jobs.items() if job.state == "failed"} == KINDS
    assert "RuntimeError: planted" in jobs["raise"].ending.reason
    assert "SIGKILL" in jobs["kill"].ending.reason
    assert any("trainer.test_batch_size=2" in note for note in jobs["test_memory"].notes)
    assert jobs["test_memory"].attempts == 2
    assert all(job.ending.lines for job in sweep.jobs if job.state == "failed")
    assert "8 jobs: 2 done, 6 FAILED" in said
    assert all(f"  method.how={how}  FAILED ({kind}): " in said for how, kind in KINDS.items())


def test_the_same_line_runs_what_failed_and_nothing_else(faulty):
    sweeps, (_, (status, said, sweep), (again, said_again, _)) = faulty
    assert status == 0, said
    assert sweep.tally == {"done": 6, "there": 2}
    assert again == 0
    assert "8 jobs: 8 there before" in said_again
    assert "CAUTION: so few test images that one of them decides image metrics" in said_again  # of every job's record
    assert "(8 of 8 jobs)" in said_again
    assert len(list(sweeps.results.rglob(record.FILE))) == 8
    assert len((sweeps.results / "sweeps" / sweep.name / "metrics.csv").read_text().splitlines()) == 9


def test_other_terminals_see_it(faulty, capsys):
    sweeps, (_, _, (_, _, sweep)) = faulty
    where = f"paths.results={sweeps.results}"
    assert main(["sweep", "status", where]) == 0
    said = capsys.readouterr().out
    assert f"sweep {sweep.name}: 8 jobs" in said
    assert said.count("there before") == 9


def test_a_worse_number_is_found(faulty, capsys):
    sweeps, (_, _, (_, _, sweep)) = faulty
    head, first, *others = (sweeps.results / "sweeps" / sweep.name / "metrics.csv").read_text().splitlines()
    cells = first.split(",")
    cells[head.split(",").index("pixel_auroc")] = str(float(cells[head.split(",").index("pixel_auroc")]) + 0.02)
    expected = sweeps.root / "expected.csv"
    expected.write_text("\n".join([head, ",".join(cells), *others]))
    check = ["sweep", "check", sweep.name, str(expected), f"paths.results={sweeps.results}"]
    assert main([*check, "tolerance=0.03"]) == 0
    assert main(check) == 1
    assert "pixel_auroc is " in capsys.readouterr().out


def test_all_that_is_wrong_is_said_before_the_first_job(tmp_path, monkeypatch, capsys):
    sweeps = Sweeps(tmp_path, monkeypatch)
    assert main(["-m", *sweeps.words("method=faulty,rdd", "dataset.categories=[cable],[cabel]")]) == 2
    said = capsys.readouterr().err
    assert "jobs 3, 4: method=rdd does not exist: did you mean 'rd'?" in said
    assert re.search("job 2: .*cabel", said)
    assert "3 of 4 jobs cannot run, as said above; nothing was started" in said
    assert not sweeps.results.exists()


def test_weights_that_cannot_be_had_are_missed_before_the_first_job(tmp_path, monkeypatch, capsys):
    sweeps = Sweeps(tmp_path, monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["method.backbone.pretrained=true", "method.backbone.name=resnet18.a1_in1k", "method.how=null"]
    assert main(["-m", *sweeps.words(*words, method="rd")[:-1]]) == 2
    assert "weights 'resnet18.a1_in1k' are not in the weights folder" in capsys.readouterr().err


def test_a_trial_estimates_and_writes_no_result(tmp_path, monkeypatch):
    sweeps = Sweeps(tmp_path, monkeypatch)
    status, said = sweeps.sweep("seed=1,1", "preflight=true", "dry_run=true")
    assert status == 0
    assert "job 2 is the same run as job 1" in said
    (job,) = sweeps.record().jobs
    assert job.state == "waiting"
    assert job.estimate_seconds > 0
    assert job.trial_bytes > 50 << 20
    assert not list(sweeps.results.rglob(record.FILE))


def test_signals_have_jobs_write_checkpoints_and_the_same_line_goes_on(tmp_path, monkeypatch):
    sweeps = Sweeps(tmp_path, monkeypatch)
    line = ["method.how=slow", "method.steps=200", "seed=1,2", "launcher.slots=1", "launcher.grace_seconds=60"]
    watch = threading.Thread(target=lambda: (await_training(tmp_path), os.kill(os.getpid(), signal.SIGTERM)))
    watch.start()
    status, said = sweeps.sweep(*line, faults=True)
    watch.join()
    assert status == 1
    assert "running jobs write checkpoints" in said
    assert [job.state for job in sweeps.record().jobs] == ["stopped", "waiting"]
    assert len(list(sweeps.results.rglob("checkpoint.pt"))) == 1
    status, said = sweeps.sweep(*line)
    assert status == 0, said
    logs = [file.read_text() for file in sorted(sweeps.results.rglob("jobs/*.log"))]
    assert ["resuming from" in log for log in logs] == [True, False]


def test_jobs_write_checkpoints_when_the_sweep_is_killed(tmp_path, monkeypatch):
    sweeps = Sweeps(tmp_path, monkeypatch)
    (tmp_path / "faults").touch()
    sweep = Command(["-m", *sweeps.words("method.how=slow", "method.steps=200")], tmp_path)
    await_training(tmp_path)
    sweep.kill()
    assert sweep.wait().status == -signal.SIGKILL
    assert wait_for(lambda: list(sweeps.results.rglob("checkpoint.pt")), 60)
    (log,) = sweeps.results.rglob("jobs/*.log")
    assert wait_for(lambda: "stopped by SIGTERM at step" in log.read_text(), 10)
    assert sweeps.record().ended is None


def await_training(root: Path) -> None:
    """Until a job is in the midst of its steps."""
    assert wait_for(lambda: any("method  " in log.read_text() for log in root.rglob("run.log")), 300)
    time.sleep(1)


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it comes to hold."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    return bool(condition())
