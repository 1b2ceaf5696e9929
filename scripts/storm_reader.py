"""A reader of a results tree in which runs write (``scripts/storm.py``): as ``ader`` reads, and as any program does."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from ader.results import record
from ader.results.lock import holder
from ader.results.tree import read_result, result_folders
from ader.system.errors import UserError

TABLES = ("metrics", "bounds", "counts", "defects")


@dataclass
class Seen:
    """What the reader saw.

    Attributes:
        rounds: through the whole tree.
        results: that it read.
        held: folders that it found someone at work in.
        versions: SHA-256 of everything that a table held, by file.
        faults: a line each.
    """

    rounds: int = 0
    results: int = 0
    held: int = 0
    versions: dict[str, list[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class Reader:
    """Goes through the tree again and again, as ``ader`` and as any other program does.

    Args:
        results: the tree.
    """

    def __init__(self, results: Path) -> None:
        self.results, self.seen = results, Seen()
        self._finished: set[Path] = set()

    def look(self) -> None:
        """Reads everything once."""
        found = set(result_folders(self.results))
        self._fault(f"{folder}: the result is gone" for folder in sorted(self._finished - found))
        self._finished |= found
        for folder in sorted(found):
            try:
                result = read_result(folder, *TABLES)
                if result is None:
                    self._fault([f"{folder}: the result is gone"])
                elif record.rows(result.tables["metrics"]) != result.record.rows:
                    self._fault([f"{folder}: metrics.csv and record.json do not belong together"])
                else:
                    self.seen.results += 1
            except UserError as error:
                self._fault([f"{folder}: {error}"])
        for folder in self.results.glob("*/*/*/*"):
            self.seen.held += holder(folder) is not None
            self._look_at_files(folder)
        self.seen.rounds += 1

    def _look_at_files(self, folder: Path) -> None:
        for file in folder.glob("*.csv"):
            with suppress(FileNotFoundError):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                versions = self.seen.versions.setdefault(str(file.relative_to(self.results)), [])
                if digest not in versions:
                    versions.append(digest)
        for name, read in (("record.json", json.loads), ("config.yaml", yaml.safe_load)):
            try:
                if not isinstance(read((folder / name).read_text(encoding="utf-8")), dict):
                    raise ValueError("it is not whole")
            except FileNotFoundError:
                pass
            except (ValueError, yaml.YAMLError) as error:
                self._fault([f"{folder / name}: {error}"])

    def _fault(self, lines: Iterator[str] | Sequence[str]) -> None:
        self.seen.faults += (line for line in lines if line not in self.seen.faults)


def read_on(results: Path, output: Path) -> int:
    """Forks a reader, which goes on until it gets SIGTERM and writes down what it saw; its process number."""
    number = os.fork()
    if number:
        return number
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: over.append(number))
    reader = Reader(results)
    try:
        while not over:
            reader.look()
            time.sleep(0.02)
    except BaseException as error:
        reader.seen.faults.append(f"the reader ended with {type(error).__name__}: {error}")
    output.write_text(json.dumps(asdict(reader.seen)))
    os._exit(0)
