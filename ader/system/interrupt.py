"""Signals that end a run: at once where nothing is lost, between two steps where a checkpoint can be written."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar

from ader.system.launch import processes

#: Also the terminal's end, SIGHUP: who wants a run to go on without it starts it with ``nohup``, which ignores it. Job
#: schedulers announce the end of a job's time with SIGUSR1 or SIGUSR2.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

#: Seconds for which a signal is the first one again: who signals all processes of a job reaches torchrun, too, which
#: passes it on.
ECHO = 2.0


class Stopped(Exception):
    """A run that ends early for a reason worth one clear line; exit status 1.

    No RuntimeError: a signal raises it anywhere, also where code takes one of those for another's fault.

    Attributes:
        kind: what a sweep is told that this is.
    """

    kind: ClassVar[str] = "raised"


class Halted(Stopped):
    """A run that was told to end: it goes on when it is started again."""

    kind = "stopped"


class OutOfMemory(Stopped):
    """A run that the machine or the device has no memory for."""

    kind = "memory"


class Interrupt:
    """Takes the signals that ask a program to end.

    A signal raises ``Stopped`` where it arrives, except inside ``patiently``, where it is only noted and the code
    asks (``name``, ``check``) when it suits. Ctrl-C after that raises KeyboardInterrupt in any case, for one of several
    processes only ``ECHO`` seconds after the first signal; other signals that come again are ignored.

    Args:
        advice: what to do then, for the message.

    Attributes:
        name: of the signal that came, or None.
        activity: what is going on, for the message.
    """

    def __init__(self, advice: str = "run the same command again to resume") -> None:
        self.name: str | None = None
        self.activity = "before training"
        self.advice = advice
        self._prompt = True
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[Interrupt]:
        """Takes the signals over for the duration, except those that this process was started to ignore."""
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._take) for number in heard}
        try:
            yield self
        except BaseException:
            if processes() > 1:  # torchrun ends all where one has failed: the reason must still be said
                before[signal.SIGTERM] = signal.SIG_IGN
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Says what is going on in the block."""
        before, self.activity = self.activity, activity
        try:
            yield
        finally:
            self.activity = before

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Signals are only noted."""
        before, self._prompt = self._prompt, False
        try:
            yield
        finally:
            self._prompt = before

    @contextmanager
    def promptly(self) -> Iterator[None]:
        """Signals act at once, also one that was noted before."""
        self.check()
        before, self._prompt = self._prompt, True
        try:
            yield
        finally:
            self._prompt = before

    def check(self) -> None:
        """Raises ``Stopped`` when a signal has come (one that came inside a destructor was swallowed there)."""
        if self.name is not None:
            self.stop()

    def stop(self) -> None:
        """Ends the run."""
        raise Halted(f"stopped by {self.name} {self.activity}: {self.advice}")

    def note(self, name: str) -> None:
        """Takes a signal as come, here or to another process."""
        self.name, self._since = name, time.monotonic()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            echo = processes() > 1 and time.monotonic() - self._since < ECHO
            # job schedulers signal again and again while a checkpoint is written; a person who insists gives Ctrl-C
            if number != signal.SIGINT or echo:
                return
            raise KeyboardInterrupt
        self.note(signal.Signals(number).name)
        if number == signal.SIGHUP:
            _leave_terminal()
        if self._prompt:
            self.stop()


def _leave_terminal() -> None:
    """Drops what is printed from now on, if the terminal is gone: an error there would come before the checkpoint."""
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
