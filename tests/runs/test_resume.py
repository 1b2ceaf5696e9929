"""An interrupted run, repeated, ends with the result of an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from ader.training import trainer
from tests.support.commands import Command
from tests.support.running import Bench, assert_same_result, terminate


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


PLACES = [
    ("collect", 2),
    ("average", 1),
    ("first", 1),
    ("first", 3),
    ("first", 4),
    ("between", 1),
    ("collect", 5),
    ("keep", 1),
    ("second", 1),
    ("second", 3),
    ("second", 4),
    ("predict", 1),
]


def test_stopped_anywhere_it_ends_the_same(bench, capsys):
    assert bench.run(results="whole") == 0
    for place, number in PLACES:
        results = f"{place}{number}"
        bench.hook(place, number, terminate)
        capsys.readouterr()
        assert bench.run(results=results) == 1, results
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("ader: stopped by SIGTERM "), lines
        assert "run the same command again to resume" in lines[0]
        assert not list(bench.folder(results).glob("record.json"))
        bench.unhook()
        assert bench.run(results=results) == 0
        assert_same_result(bench.folder("whole"), bench.folder(results))


def test_stopped_again_and_again_with_workers(bench):
    assert bench.run(results="whole") == 0
    words = ("trainer.workers=2", "trainer.checkpoint_minutes=0")
    stops = 0
    for place in ("average", "first", "first", "first", "between", "second", "second", "predict"):
        bench.hook(place, 1, terminate)
        stops += bench.run(*words)
    bench.unhook()
    assert stops == 8
    assert bench.run(*words) == 0
    assert_same_result(bench.folder("whole"), bench.folder())


def test_an_exception_loses_only_what_came_after_the_checkpoint(bench, capsys):
    """As a kill would: nothing is written at the end."""

    def fail():
        raise OSError("disk gone")

    assert bench.run(results="whole") == 0
    for place, number in [("first", 3), ("keep", 1), ("second", 2), ("predict", 1)]:
        bench.hook(place, number, fail)
        assert bench.run("trainer.checkpoint_minutes=0") == 1
    bench.unhook()
    capsys.readouterr()
    assert bench.run() == 0
    assert "training done before" in capsys.readouterr().out
    assert_same_result(bench.folder("whole"), bench.folder())


def test_rd_resumes_bit_for_bit(bench, monkeypatch):
    words = ("image_size=64",)
    assert bench.run(*words, results="whole", method="rd") == 0
    add = trainer.LossMeter.add

    def interrupted(self, losses, step):
        add(self, losses, step)
        if step == 1:
            terminate()

    monkeypatch.setattr(trainer.LossMeter, "add", interrupted)
    assert bench.run(*words, method="rd") == 1
    monkeypatch.undo()
    bench.monkeypatch.setenv("ADER_CACHE", str(bench.root / "cache"))
    assert bench.run(*words, method="rd") == 0
    assert_same_result(bench.folder("whole"), bench.folder())


def test_the_seed_decides(bench):
    assert bench.run(results="one") == bench.run("seed=43", results="two") == 0
    with pytest.raises(AssertionError):
        assert_same_result(bench.folder("one"), bench.folder("two"))


def test_a_signal_while_files_are_checked(bench, capsys, monkeypatch):
    import ader.runs.run

    check_files = ader.runs.run.check_files

    def slow(*arguments):
        terminate()
        check_files(*arguments)

    monkeypatch.setattr(ader.runs.run, "check_files", slow)
    assert bench.run() == 1
    assert "stopped by SIGTERM while checking files" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(bench, capsys):
    bench.hook("second", 1, terminate)
    assert bench.run() == 1
    bench.unhook()
    file = bench.folder() / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:1000])
    assert bench.run() == 2
    assert "checkpoint.pt is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("place", "number"), [("second", 1), ("between", 1)])
def test_a_checkpoint_of_other_processes_is_refused(bench, capsys, place, number):
    """In the midst of a stage and between two: what another number of processes makes of it is neither's result."""
    bench.hook(place, number, terminate)
    assert bench.run() == 1
    bench.unhook()
    file = bench.folder() / "checkpoint.pt"
    saved = torch.load(file, weights_only=True)
    saved["local"] *= 2
    torch.save(saved, file)
    capsys.readouterr()
    assert bench.run() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was written by a run of 2 processes and cannot be resumed by 1" in line
    assert "torchrun --nproc-per-node=2 -m ader" in line
    assert "force=true" in line


def test_a_finished_model_of_other_processes_is_not_mixed_with_others(bench, capsys):
    words = ("setting=single_class",)
    bench.hook("predict", 2, terminate)  # in the second model
    assert bench.run(*words) == 1
    bench.unhook()
    (file,) = bench.root.rglob("evaluation.pt")
    saved = torch.load(file, weights_only=True)
    saved["model"]["training"]["processes"] = 2
    torch.save(saved, file)
    capsys.readouterr()
    assert bench.run(*words) == 2
    assert "was written by a run of 2 processes" in capsys.readouterr().err


def _wait_for(path: Path, command: Command, pattern: str) -> None:
    while command.lives and not list(path.rglob(pattern)):
        time.sleep(0.01)


def test_killed_at_random_moments(bench):
    words = ("trainer.checkpoint_minutes=0", "trainer.epochs=6")
    assert Command(bench.words(*words, results="whole"), bench.root).wait().status == 0
    rng = random.Random(1)
    killed = 0
    for _ in range(3):
        command = Command(bench.words(*words), bench.root)
        _wait_for(bench.root / "results", command, "run.log")
        time.sleep(rng.uniform(0, 0.8))
        command.kill()
        killed += command.wait().status == -signal.SIGKILL
    assert killed
    assert Command(bench.words(*words), bench.root).wait().status == 0
    assert_same_result(bench.folder("whole"), bench.folder())
    assert not list(bench.root.rglob(".*.tmp"))


def test_a_signal_to_the_whole_group_leaves_workers_to_the_run(bench):
    """What Ctrl-C in a terminal and job schedulers do."""
    words = ("trainer.epochs=400", "trainer.workers=2")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        command = Command(bench.words(*words), bench.root)
        _wait_for(bench.root / "results", command, "events*")
        os.killpg(command.pid, number)
        status, _, error = command.wait()
        assert status == 1, error
        assert error.count("\n") == 1, error
        assert f"stopped by {number.name} at step" in error
        assert "checkpoint written" in error
        for events in bench.root.rglob("events*"):
            events.unlink()
