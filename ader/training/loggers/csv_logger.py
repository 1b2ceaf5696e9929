"""``logger=csv``: the training curves as ``scalars.csv`` in the run's folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TextIO

from ader.config.schema import CsvOptions
from ader.system.files import check_regular, write_atomic
from ader.training.loggers import LoggedRun, Logger

FILE = "scalars.csv"
COLUMNS = ("model", "step", "tag", "value")


class CsvLogger(Logger):
    """A row per value. A resumed run first takes away what its earlier part wrote from the first step on.

    Args:
        run: is logged.
    """

    def __init__(self, run: LoggedRun) -> None:
        self.path = run.folder / FILE
        self.file: TextIO | None = None
        self.begun: set[str] = set()

    def start(self) -> None:
        """Looks whether the file can be read and written."""
        check_regular(self.path)
        with self.path.open("a", encoding="utf-8"):
            pass

    def add(self, tag: str, value: float, step: int, model: str = "") -> None:
        """A row, which is in the file at once."""
        if model not in self.begun:
            self.close(done=False)
            rows = [row for row in self._rows() if row[0] != model or int(row[1]) < step]
            write_atomic(self.path, "".join(map(_line, [COLUMNS, *rows])))
            self.begun.add(model)
        if self.file is None:
            self.file = self.path.open("a", encoding="utf-8", newline="", buffering=1)
        self.file.write(_line((model, str(step), tag, repr(float(value)))))

    def close(self, done: bool) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _rows(self) -> Iterator[tuple[str, ...]]:
        """Those that are whole: a process that was killed may have left half of its last one."""
        with self.path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.reader(file):
                if len(row) == len(COLUMNS) and row[1].isdecimal():
                    yield tuple(row)


def _line(row: tuple[str, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(row)
    return buffer.getvalue()


def make(options: CsvOptions, run: LoggedRun) -> Logger:
    """A logger of a run."""
    return CsvLogger(run)
