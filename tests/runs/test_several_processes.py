"""Whole runs of several processes: the same evaluation as one's, and an end of all where one ends."""

from __future__ import annotations

import os
import signal
import time

import pytest

from ader.__main__ import main
from tests.support.commands import run_together
from tests.support.running import Bench, assert_same_result


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def _at(mine, place, number, rank, action, *arguments):
    """Has one process do something when the made-up method reaches a place for the ``number``-th time."""
    import made_up

    seen = []

    def reached(name):
        seen.extend([name] if name == place else [])
        if mine == rank and name == place and len(seen) == number:
            action(*arguments)

    made_up.hook = reached


def _send(number):
    os.kill(os.getpid(), number)


def _fail():
    raise OSError("disk gone")


def _wait_or_go(rank, grace):
    """The last one ends in silence, while the first one answers no signal."""
    import made_up

    from ader.system import peers

    def reached(name):
        if name == "collect":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            if rank == 1:
                os._exit(0)
            time.sleep(50)

    peers.GRACE = grace
    made_up.hook = reached


def _said(ended):
    return [line for each in ended for line in each.text.splitlines() if line.startswith("ader:")]


def test_an_evaluation_is_the_same_on_any_number_of_processes(bench):
    """8 test images: batches of 3, of which one process has two, and of 4, of which one has none."""
    assert bench.run() == 0
    folder = bench.folder()
    for size, world, metric in ((3, 2, "histogram"), (4, 3, "exact")):
        words = ["eval", str(folder), f"trainer.test_batch_size={size}", f"metric={metric}", "metric.by_defect=true"]
        assert main([*words, f"run=one-{metric}"]) == 0
        ended = run_together(world, [*words, f"run=several-{metric}"], bench.root)
        assert [each.status for each in ended] == [0] * world, ended
        for name in ("scores.csv", "metrics.csv", "bounds.csv", "counts.csv", "defects.csv", "pixels.npz"):
            one, several = (folder.parent / f"{run}-{metric}" / name for run in ("one", "several"))
            assert one.read_bytes() == several.read_bytes(), (name, size)


def test_stopped_and_killed_two_processes_end_as_undisturbed_ones(bench):
    """One is told by a job scheduler, then the first one is killed in the midst of an epoch."""
    words = ("trainer.checkpoint_minutes=0", "trainer.test_batch_size=2")
    whole = run_together(2, bench.words(*words, results="whole"), bench.root)
    assert [each.status for each in whole] == [0, 0], whole
    mine = bench.words(*words)
    ended = run_together(2, mine, bench.root, _at, ("first", 2, 1, _send, signal.SIGUSR1))
    assert [each.status for each in ended] == [1, 1], ended
    (line,) = _said(ended)
    assert line.startswith("ader: stopped by SIGUSR1 at step "), line
    assert "checkpoint written: run the same command again to resume" in line
    began = time.monotonic()
    ended = run_together(2, mine, bench.root, _at, ("second", 2, 0, _send, signal.SIGKILL))
    assert [each.status for each in ended] == [-9, 1], ended
    assert time.monotonic() - began < 30
    (line,) = _said(ended)
    assert "process 0 of 2 died" in line
    assert "run the same command again to resume" in line
    assert "Traceback" not in "".join(each.text for each in ended)
    ended = run_together(2, mine, bench.root)
    assert [each.status for each in ended] == [0, 0], ended
    assert_same_result(bench.folder("whole"), bench.folder())


def test_a_process_that_raises_gives_its_own_reason(bench):
    ended = run_together(2, bench.words(), bench.root, _at, ("first", 1, 1, _fail))
    assert [each.status for each in ended] == [1, 1], ended
    (line,) = _said(ended)
    assert line.startswith("ader: OSError: disk gone"), line


def test_a_long_call_does_not_outlive_a_death(bench):
    """As a process does that waits in a library for hours, where no signal is answered."""
    began = time.monotonic()
    ended = run_together(2, bench.words(), bench.root, _wait_or_go, (0.5,))
    assert [each.status for each in ended] == [1, 0]
    assert time.monotonic() - began < 30
    assert len(_said(ended)) == 1
    assert "process 1 of 2 died" in ended[0].text
