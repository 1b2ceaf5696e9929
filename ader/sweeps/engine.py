"""What a sweep needs of a place where jobs run; ``ader.sweeps.engines`` has a module for each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ader.config.options import options
from ader.config.validate import validated
from ader.results.sweeps.schema import Ending
from ader.sweeps.task import Task
from ader.system.errors import UserError


@dataclass(frozen=True)
class Started:
    """A job has begun.

    Attributes:
        number: its own.
        where: a GPU, a machine, a job of Slurm's.
    """

    number: int
    where: str = ""


@dataclass(frozen=True)
class Ended:
    """A job has ended.

    Attributes:
        number: its own.
        ending: how.
    """

    number: int
    ending: Ending


class Engine(AbstractContextManager["Engine"], Protocol):
    """Runs tasks; entered before the first and left when all have ended, or when the sweep is given up.

    The constructor takes the launcher's own arguments by name, typed: what ``launcher=NAME`` and ``launcher.KEY=VALUE``
    say. It raises a ``UserError`` where they cannot be had here: before any job begins.

    Attributes:
        slots: how many tasks run at once; None where another program decides.
    """

    slots: int | None

    def check_device(self, name: str) -> None:
        """Called with each job's ``trainer.device`` before anything runs.

        Raises:
            UserError: jobs cannot have it here.
        """

    def open(self, folder: Path) -> None:
        """Called once, before the jobs are planned: makes ready what takes time, and writes nothing yet.

        Args:
            folder: of the sweep, for files of the engine's own.

        Raises:
            UserError: it cannot be had here.
        """

    def room(self) -> int:
        """How many more tasks it takes now. One that queues tasks itself takes all."""

    def start(self, task: Task) -> None:
        """Takes a task; it may have to wait, and is reported as started when it runs."""

    def look(self, seconds: float) -> Sequence[Started | Ended]:
        """What happened since the last look; waits for something to happen, at most so long."""

    def stop(self) -> None:
        """Running tasks write checkpoints and end, waiting ones are withdrawn; all are reported as ended."""

    def kill(self) -> None:
        """All tasks end at once, and are reported."""


def check_gpu(name: str, there: bool) -> None:
    """What any engine says of a job's ``trainer.device``: a job sees its own GPU alone, or none.

    Args:
        name: of the device.
        there: whether jobs have a GPU.

    Raises:
        UserError: it is a GPU by its number, or jobs have none.
    """
    if ":" in name:
        raise UserError(f"trainer.device={name}: each job of a sweep sees one GPU, as cuda: leave the number out")
    if name == "cuda" and not there:
        raise UserError("trainer.device=cuda: jobs have no GPU (launcher.gpus): set trainer.device=auto")


def build(name: str, arguments: Mapping[str, Any]) -> Engine:
    """The engine that ``launcher=`` names.

    Args:
        name: a module of ``ader.sweeps.engines``.
        arguments: its own.

    Raises:
        UserError: there is none, an argument is unknown or does not fit, or a package is missing.
    """
    try:
        module = importlib.import_module(f"ader.sweeps.engines.{name}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("ader."):
            raise
        known = ", ".join(options("launcher"))
        raise UserError(
            f"launcher.name={name!r} is no launcher: choose launcher={known.replace(', ', ' | ')}"
        ) from error
    engine: Engine = module.Engine(**validated(module.Engine, arguments, where="launcher"))
    return engine
