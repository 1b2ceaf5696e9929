"""Reading the results tree while runs write in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ader.results import record
from ader.results.lock import holder
from ader.results.schema import Record
from ader.system.errors import UserError
from ader.system.files import special

#: Seconds that a reader waits for a result to be whole that a run is replacing, and between two looks.
PATIENCE, PAUSE = 2.0, 0.01


class Result(NamedTuple):
    """A finished result.

    Attributes:
        record: of it.
        tables: those that were asked for, by name.
    """

    record: Record
    tables: dict[str, pd.DataFrame]


def result_folders(root: Path) -> Iterator[Path]:
    """Folders below ``root`` with a result, by name; whether one that comes or goes meanwhile is found is open."""
    for place, folders, files in os.walk(root):  # which passes over what is gone when it comes there
        folders.sort()
        if record.FILE in files:
            yield Path(place)
        if {record.FILE, "config.yaml"} & {*files}:
            folders.clear()  # a run's maps are thousands of files


def read_result(folder: Path, *names: str) -> Result | None:
    """A record and tables that belong together, also while a run replaces them; None where there is no result.

    Args:
        folder: of the run.
        names: of tables: ``metrics``, ``bounds``, ``counts``; ``defects``, which is left out where the result has none.

    Raises:
        UserError: the record or a table is damaged.
    """
    until = time.monotonic() + PATIENCE
    while True:
        found: Result | UserError | None = None
        before = _mark(folder)
        try:
            if (result := record.read(folder)) is not None:
                wanted = [name for name in names if name != "defects" or result.by_defect]
                found = Result(result, {name: record.read_table(folder / f"{name}.csv") for name in wanted})
        except UserError as error:
            found = error
        late = time.monotonic() > until
        # tables are only replaced while there is no record
        if before == _mark(folder) and (before is not None or late or not _is_replaced(folder)):
            if isinstance(found, UserError):
                raise found
            return found
        if late:
            raise UserError(f"the result in {folder} is replaced again and again: wait for that to end")
        time.sleep(PAUSE)


def _mark(folder: Path) -> tuple[int, int, int] | None:
    """What tells one ``record.json`` from the next."""
    file = folder / record.FILE
    if special(file):
        return None
    try:
        with file.open("rb") as stream:  # opened, so that network disks look again
            stat = os.fstat(stream.fileno())
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _is_replaced(folder: Path) -> bool:
    """Whether a run is about to write a record beside the tables that are there."""
    return (folder / "metrics.csv").exists() and holder(folder) is not None
