"""Several processes of one command, as torchrun would start them, but forked: nothing is imported again."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ader.__main__ import main
from tests.support.running import PLUGIN, free_port

SECONDS = 60


class Ended(NamedTuple):
    """How a process ended: its status, negative for a signal, and what it printed."""

    status: int
    text: str


def run_together(
    world: int, words: list[str], folder: Path, before: Callable[[int], object] | None = None
) -> list[Ended]:
    """Runs a command line in ``world`` processes.

    Args:
        world: how many.
        words: of the command line.
        folder: where what they print goes.
        before: called with its rank in each process, before the command.
    """
    port, numbers = free_port(), []
    for rank in range(world):
        number = os.fork()
        if number == 0:
            _live(rank, world, port, words, folder / f"rank{rank}.txt", before)
        numbers.append(number)
    until, ended = time.monotonic() + SECONDS, []
    for rank, number in enumerate(numbers):
        while not (found := os.waitpid(number, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.kill(number, signal.SIGKILL)
            time.sleep(0.01)
        ended.append(Ended(os.waitstatus_to_exitcode(found[1]), (folder / f"rank{rank}.txt").read_text()))
    return ended


def _live(
    rank: int, world: int, port: str, words: list[str], log: Path, before: Callable[[int], object] | None
) -> None:
    status = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        sys.stdout, sys.stderr = os.fdopen(os.dup(descriptor), "w"), os.fdopen(os.dup(descriptor), "w")
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        sys.path.insert(0, str(PLUGIN))
        if before is not None:
            before(rank)
        status = main(words)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
