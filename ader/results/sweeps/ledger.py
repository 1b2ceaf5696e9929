"""A sweep's folder, ``<results>/sweeps/<name>``: what is known of its jobs, for other terminals and other machines."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ader.results.identity import check_name
from ader.results.record import fault
from ader.results.schema import plain
from ader.results.sweeps.schema import SCHEMA, SweepRecord
from ader.system.errors import UserError, suggest
from ader.system.files import check_regular, write_atomic

FILE = "sweep.json"
#: Of the results tree.
FOLDER = "sweeps"
#: Seconds without a sign of life after which the process that sees to a sweep counts as dead. It gives one every ten.
DEAD = 60.0

RECORD = TypeAdapter(SweepRecord)


def now() -> str:
    """UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def seconds_since(time: str) -> float:
    """From a time of ``now``'s, possibly another machine's."""
    return (datetime.now(timezone.utc) - datetime.fromisoformat(time)).total_seconds()


def folder_of(results: Path, name: str) -> Path:
    """Of a sweep.

    Raises:
        UserError: the name cannot be that of a folder.
    """
    return results / FOLDER / check_name("sweep", name)


def name_of(lines: Sequence[tuple[str, ...]], swept: Sequence[str]) -> str:
    """The same for the same jobs: the keys in which they differ, and a mark of all their words."""
    mark = hashlib.sha256(json.dumps(lines).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    keys = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", key) for key in swept)[:60]
    return f"{keys or 'single'}-{mark}"


def write(folder: Path, sweep: SweepRecord) -> None:
    """As a whole or not at all."""
    write_atomic(folder / FILE, json.dumps(plain(sweep), indent=1, allow_nan=False) + "\n")


def read(folder: Path) -> SweepRecord | None:
    """What is known of a sweep; None where nothing is.

    Raises:
        UserError: the file is damaged, or of another version.
    """
    file = folder / FILE
    check_regular(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("schema") != SCHEMA:
            raise UserError(f"{file} is of another version of ader: delete it, or give sweep=NAME")
        return RECORD.validate_json(json.dumps(found), strict=True)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(f"{file}: {fault(error)}: delete it; finished jobs are known by their results") from error
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} cannot be read: delete it; finished jobs are known by their results") from error


def names(results: Path) -> list[str]:
    """Of all sweeps, the latest last."""
    files = (results / FOLDER).glob(f"*/{FILE}")
    return [file.parent.name for file in sorted(files, key=lambda file: file.stat().st_mtime)]


def find(results: Path, name: str) -> tuple[Path, SweepRecord]:
    """A sweep by its name.

    Raises:
        UserError: there is none.
    """
    folder = folder_of(results, name)
    found = read(folder)
    if found is None:
        raise UserError(f"there is no sweep {name!r} in {results / FOLDER}: {suggest(name, names(results))}")
    return folder, found


def is_alive(sweep: SweepRecord) -> bool:
    """Whether the process that sees to it was heard of lately."""
    return sweep.ended is None and seconds_since(sweep.heartbeat) < DEAD
