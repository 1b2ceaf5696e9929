"""What a run says: to the terminal, to its log file, and progress in between."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ader.system.errors import UserError
from ader.system.files import WriteError, check_regular
from ader.system.interrupt import OutOfMemory, Stopped
from ader.system.text import clean

#: In what is raised where memory cannot be had: by Python and NumPy, CUDA, torch's CPU allocator, the system, C++.
OUT_OF_MEMORY = ("MemoryError", "out of memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc")

#: Seconds between two progress lines where there is no terminal.
PERIOD = 10.0


class Console:
    """Prints lines and keeps them in a log file; shows progress as a bar on a terminal and as lines elsewhere.

    Args:
        log: file to append to, with the time of each line; None for no file.
        quiet: print nothing (processes other than the first).
    """

    def __init__(self, log: Path | None = None, quiet: bool = False) -> None:
        self.log, self.quiet = log, quiet
        self.rich = RichConsole(highlight=False, soft_wrap=True)
        self._log = None
        if log is not None and not quiet:
            check_regular(log)
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
                self._log = log.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
            except OSError as error:
                raise UserError(f"{log} cannot be written ({error.strerror}): remove what is in its place") from error

    def say(self, text: str | Text) -> None:
        """One or more lines; what would control a terminal is spelled out. A ``Text`` has colors on a terminal that
        shows some."""
        if self.quiet:
            return
        self.note(str(text))
        try:
            self.rich.print(text if isinstance(text, Text) else clean(text), markup=False, emoji=False)
            sys.stdout.flush()  # a pipe's reader, or a killed run's, must not miss it
        except BrokenPipeError:
            raise
        except OSError as error:  # it goes to a file on a full disk
            raise WriteError(error.errno, error.strerror, "standard output") from error

    def note(self, text: str) -> None:
        """To the log file only."""
        if self._log is not None:
            stamp = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
            with suppress(OSError):  # what is said of a full disk must get to the terminal all the same
                self._log.writelines(f"{stamp}  {line}\n" for line in clean(text).splitlines())

    @contextmanager
    def track(self, name: str, total: int, unit: str, done: int = 0) -> Iterator[Track]:
        """Progress of ``total`` steps, of which ``done`` were made by an earlier run."""
        if self.quiet:
            yield Track(total, done)
        elif self.rich.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.rich, transient=True) as progress:
                yield _Bar(progress, name, total, done)
        else:
            yield _Lines(self, name, total, done, unit)

    @contextmanager
    def keeping_errors(self) -> Iterator[None]:
        """Keeps in the log file why the block ended; an unexpected exception becomes one line and its log."""
        try:
            yield
        except (UserError, Stopped) as error:
            self.note(f"ended: {error}")
            raise
        except KeyboardInterrupt:
            self.note("ended: interrupted")
            raise
        except WriteError as error:
            self.note(f"ended: {error.advice}")
            raise UserError(error.advice) from error
        except Exception as error:
            self.note(traceback.format_exc())
            what = (str(error).strip() or "no message").splitlines()[0]
            where = f" (traceback in {self.log})" if self._log else ""
            if any(words in f"{type(error).__name__}: {error}" for words in OUT_OF_MEMORY):
                what += ": lower method.batch_size, trainer.test_batch_size or image_size"
                raise OutOfMemory(f"{type(error).__name__}: {what}{where}") from error
            raise Stopped(f"{type(error).__name__}: {what}{where}") from error

    def close(self) -> None:
        """Closes the log file."""
        if self._log is not None:
            with suppress(OSError):
                self._log.close()
            self._log = None

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Track:
    """Counts steps and shows nothing."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.first = total, done, done
        self.began = time.monotonic()

    def advance(self, text: str = "") -> None:
        """One more step; ``text`` is shown beside it (losses, images per second)."""
        self.reach(self.done + 1, text)

    def reach(self, done: int, text: str = "") -> None:
        """So many steps are made."""
        if done != self.done:
            self.done = done
            self.show(text)

    def show(self, text: str) -> None:
        """Shows the present state."""

    def seconds_left(self) -> float:
        """Estimated from the pace of this run."""
        pace = (time.monotonic() - self.began) / max(1, self.done - self.first)
        return pace * (self.total - self.done)


class _Bar(Track):
    """A rich progress bar."""

    def __init__(self, progress: Progress, name: str, total: int, done: int) -> None:
        super().__init__(total, done)
        self.progress = progress
        self.task = progress.add_task(clean(name), total=total, completed=done, text="")

    def show(self, text: str) -> None:
        self.progress.update(self.task, completed=self.done, text=clean(text))


class _Lines(Track):
    """A line every ten seconds, and one at the end."""

    def __init__(self, console: Console, name: str, total: int, done: int, unit: str) -> None:
        super().__init__(total, done)
        self.console, self.name, self.unit = console, name, unit
        self.shown = time.monotonic()

    def show(self, text: str) -> None:
        now = time.monotonic()
        if now - self.shown < PERIOD and self.done < self.total:
            return
        self.shown = now
        left = f"  {duration(self.seconds_left())} left" if self.done < self.total else ""
        self.console.say(f"{self.name}: {self.done}/{self.total} {self.unit}  {text}{left}".rstrip())


def duration(seconds: float) -> str:
    """``1 h 05 min``, ``3 min 20 s`` or ``4.2 s``."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{seconds:.1f} s"
