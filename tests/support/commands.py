"""Command lines in processes of their own, forked from one that has imported torch, so that each starts at once.

That one has no threads. pytest's own process may have those of OpenMP, and what is forked from it would wait for them
without end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ader.testing.processes import PRELOADED
from tests.support.running import PLUGIN, free_port

SECONDS = 60


class Ended(NamedTuple):
    """How a process ended: its status, negative for a signal, and what it printed."""

    status: int
    out: str
    error: str

    @property
    def text(self) -> str:
        return self.out + self.error


class Command:
    """``ader WORDS`` in a session of its own, with this process's variables.

    Args:
        words: of the command line.
        folder: where what it prints goes.
        variables: more of them.
        before: a function that can be pickled, called first, with ``arguments``.
        terminal: the device that it prints to, in place of files.
    """

    def __init__(
        self,
        words: list[str],
        folder: Path,
        variables: Mapping[str, str] | None = None,
        before: Callable[..., object] | None = None,
        arguments: tuple[object, ...] = (),
        terminal: str | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        self._files = [Path(terminal)] * 2 if terminal else [folder / f"{os.urandom(8).hex()}.txt" for _ in "oe"]
        environment = {**os.environ, **(variables or {})}
        self._process = context.Process(
            target=_live, args=(words, environment, os.getcwd(), self._files, before, arguments)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.exitcode is None

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float = SECONDS) -> Ended:
        """Its end; after these seconds it says where it hangs, and is killed."""
        self._process.join(seconds)
        if self.lives:
            os.kill(self.pid, signal.SIGABRT)
            self._process.join(2)
            self.kill()
            self._process.join()
        assert self._process.exitcode is not None
        texts = [file.read_text() if file.is_file() else "" for file in self._files]
        return Ended(self._process.exitcode, *texts)


def run_together(
    world: int,
    words: list[str],
    folder: Path,
    before: Callable[..., object] | None = None,
    arguments: tuple[object, ...] = (),
) -> list[Ended]:
    """Runs a command line in ``world`` processes, as torchrun would start them. ``before`` gets a process's rank, then
    the arguments."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    common |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    commands = [
        Command(words, folder, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, before, (rank, *arguments))
        for rank in range(world)
    ]
    until = time.monotonic() + SECONDS
    return [command.wait(max(0.0, until - time.monotonic())) for command in commands]


def _live(
    words: list[str],
    environment: Mapping[str, str],
    here: str,
    files: list[Path],
    before: Callable[..., object] | None,
    arguments: tuple[object, ...],
) -> None:
    import faulthandler

    status = 99
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background has it ignore
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(here)
        for number, file in enumerate(files, 1):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY)
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        faulthandler.enable()
        sys.path.insert(0, str(PLUGIN))
        if before is not None:
            before(*arguments)
        from ader.__main__ import main

        status = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
