"""Launchers of clusters against the real thing: a Slurm of one node, submitit's local processes, Ray on this machine.

Each is skipped where its programs or its package are missing.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from ader.config.compose import compose_as
from ader.config.schema import SweepConfig
from ader.results.sweeps.schema import Ending
from ader.sweeps.engine import build
from ader.sweeps.engines import _allocation
from ader.sweeps.engines import slurm as launcher
from ader.sweeps.task import Limits
from ader.system.errors import UserError
from tests.support.planted_jobs import FOLDER, drive, planted, starts
from tests.support.slurm import Slurm, missing, slurm

ROOT = Path(__file__).parents[2]
LIMITS = Limits(grace=10)

needs_submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
needs_slurm = pytest.mark.skipif(bool(missing()), reason=f"programs of Slurm are not installed: {missing()}")

PLANTED = {
    "done": ("done", ""),
    "raise": ("raised", "unexpected ZeroDivisionError: planted"),
    "exit": ("no result", "ended with status 0 and left no result"),
    "kill": ("killed", "was killed by SIGKILL, by someone or by the system for want of memory"),
}


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER), str(ROOT)]))
    monkeypatch.setattr(launcher, "SETTLED", 1.0)


def assert_planted(endings: Mapping[str, Ending], kinds: Collection[str] = PLANTED) -> None:
    """The planted failures, each with its reason."""
    assert {kind: (endings[kind].kind, endings[kind].reason) for kind in kinds} == {
        kind: PLANTED[kind] for kind in kinds
    }
    assert endings["raise"].lines == ("a word before the end",)


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_options_are_the_arguments(name):
    engine = import_module(f"ader.sweeps.engines.{name}").Engine
    given = compose_as(SweepConfig, [f"launcher={name}"]).launcher
    arguments = inspect.signature(engine).parameters
    assert given.name == name
    assert list(given.rest) == list(arguments)
    same = {key: argument.default for key, argument in arguments.items()}
    assert {key: value or None for key, value in given.rest.items()} == {key: same[key] or None for key in same}


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    expected = rf"launcher={name} needs the package {package}: pip install 'ader-bench\[{name}\]'"
    with pytest.raises(UserError, match=expected):
        build(name, {})


@needs_submitit
def test_no_slurm_here(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no sbatch here: .*launcher\.cluster=local"):
        build("slurm", {})


@needs_submitit
def test_devices():
    build("slurm", {"cluster": "local", "gpus": 1}).check_device("cuda")
    for name, gpus in (("cuda", 0), ("cuda:1", 2)):
        with pytest.raises(UserError, match=f"trainer.device={name}"):
            build("slurm", {"cluster": "local", "gpus": gpus}).check_device(name)


@needs_submitit
@pytest.mark.parametrize(
    ("kind", "signals", "again"),
    [
        ("stopped", [signal.SIGUSR2], True),
        ("killed", [signal.SIGUSR2], True),  # before it listened
        ("done", [signal.SIGUSR2], False),
        ("raised", [signal.SIGUSR2], False),
        ("stopped", [], False),
        ("stopped", [signal.SIGTERM], False),  # Slurm queues it again by itself, or cancels it
    ],
)
def test_what_is_queued_again(kind, signals, again, tmp_path, monkeypatch):
    requeued = []

    def watch(task, order):
        for number in signals:
            os.kill(os.getpid(), number)
        assert (order() == "stop") == bool(signals)
        return Ending(kind=kind)

    monkeypatch.setattr(_allocation, "watch", watch)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGUSR2, lambda number, frame: requeued.append(number))
    try:
        ending = _allocation.Watched(planted(tmp_path, [kind], LIMITS)[0], tmp_path)()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert bool(requeued) == again
    assert again or ending == Ending(kind=kind)


@needs_submitit
def test_submitit_locally(tmp_path):
    engine = build("slurm", {"cluster": "local", "cpus": 1, "gpus": 0, "slots": 2})
    engine.open(tmp_path / "sweep")
    assert engine.room() == engine.slots
    with engine:
        endings, places = drive(engine, planted(tmp_path, ["done", "raise", "orphan"], LIMITS))
    assert_planted(endings, ["done", "raise"])
    assert endings["orphan"].kind == "no result"  # the process that watched it was killed
    assert (tmp_path / "orphan.done.checkpoint").exists()  # and its own was told to end
    assert set(places) == {"done", "raise", "orphan"}
    assert starts(tmp_path, "done")[0][2] == "''"  # it sees no GPU


@pytest.fixture(scope="module")
def service():
    """A Slurm of one node with two cores."""
    with slurm(cpus=2) as running:
        yield running


@pytest.fixture
def on_slurm(service: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Slurm's commands speak to it."""
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    return service


@needs_submitit
@needs_slurm
def test_slurm(on_slurm, tmp_path):
    engine = build("slurm", {"cpus": 1, "gpus": 0, "slots": 2, "partition": "main"})
    engine.open(tmp_path / "sweep")
    preempted = False

    def preempt(begun: set[int]) -> None:
        nonlocal preempted
        if not preempted and (tmp_path / "long.done.starts").exists():
            preempted = True
            on_slurm.command("sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true")
        on_slurm.hurry()

    tasks = planted(tmp_path, ["long", "raise", "exit", "kill", "orphan", "done"], LIMITS)
    with engine:
        endings, places = drive(engine, tasks, step=preempt)
    assert_planted(endings)
    assert (endings["orphan"].kind, endings["long"].kind) == ("killed", "done")
    assert (tmp_path / "long.done.checkpoint").exists()
    assert len(starts(tmp_path, "long")) == 2
    (place,) = set(places["long"])
    assert re.fullmatch(r"job \d+_0 on node", place)


@needs_submitit
@needs_slurm
def test_a_sweep_on_slurm_is_stopped(on_slurm, tmp_path):
    engine = build("slurm", {"cpus": 2, "gpus": 0})
    engine.open(tmp_path / "sweep")

    def stop(begun: set[int]) -> None:
        if (tmp_path / "hang.done.starts").exists():
            engine.stop()

    with engine:
        endings, _ = drive(engine, planted(tmp_path, ["hang", "done"], LIMITS), step=stop)
    assert {kind: ending.kind for kind, ending in endings.items()} == {"hang": "stopped", "done": "stopped"}
    assert (tmp_path / "hang.done.checkpoint").exists()
    assert not (tmp_path / "done.done.starts").exists()


@needs_submitit
@needs_slurm
def test_what_slurm_refuses(on_slurm, tmp_path):
    for wrong in ({"partition": "none"}, {"gpus": 4}, {"sbatch": {"no-such-thing": 1}}):
        with pytest.raises(UserError, match=r"Slurm refuses such a job \(.+\): correct launcher\."):
            build("slurm", {"gpus": 0, "cpus": 1, **wrong}).open(tmp_path / "sweep")


@needs_ray
def test_ray(tmp_path):
    engine = build("ray", {"address": "local", "cpus": 1, "retries": 1})
    engine.open(tmp_path / "sweep")
    before = signal.getsignal(signal.SIGTERM)
    kinds = ["done", "raise", "exit", "kill", "orphan"]
    with engine:
        endings, places = drive(engine, planted(tmp_path, kinds, LIMITS))
        assert_planted(endings)
        assert endings["orphan"].kind == "done"  # started again, and resumed
        assert len(starts(tmp_path, "orphan")) == len(places["orphan"]) == 2
        assert starts(tmp_path, "done")[0][2] == "''"  # it sees no GPU

        def stop(begun: set[int]) -> None:
            if (tmp_path / "hang.done.starts").exists():
                engine.stop()

        hanging = planted(tmp_path, ["hang", "hang2", "hang3"], LIMITS)
        stopped, _ = drive(engine, hanging, step=stop)
    assert {ending.kind for ending in stopped.values()} == {"stopped"}
    assert (tmp_path / "hang.done.checkpoint").exists()
    assert signal.getsignal(signal.SIGTERM) == before
