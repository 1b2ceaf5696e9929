"""What is in files: their SHA-256, remembered, so that a file is read again only where something of it changed.

A folder ``<cache>/contents`` holds

- ``known.txt``: a line for every file that was read: the key of its path, size and times of change, and the SHA-256 of
  its content. Only ever appended to; a line that a killed process left half written is passed over.
- ``<mark>.json``: the names and contents that a mark stands for, to say later which of them changed.

All of it can be made again. Where it cannot be written nothing is remembered, and every file is read every time.

What is not seen: a file that is written to without a change of its size and both of its times, which needs a disk that
keeps none, or a clock that is set back to the very tick of the last change.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ader.system.console import Console
from ader.system.files import sha256, write_atomic
from ader.system.parallel import ahead, threads

#: Threads that read (hashing does not hold the interpreter's lock).
WORKERS = min(8, os.cpu_count() or 1)
#: Files that wait for a thread, and how often what was read is written down.
WAITING, SECONDS = 256, 5.0
#: Nanoseconds in which two changes of a file may have the same time: a tick of the kernel's clock, twice.
TICK = 20_000_000
#: Of what cannot be read.
ABSENT = "unreadable"


def file_key(path: Path) -> bytes | None:
    """SHA-256 over a file's absolute path, its size and both of its times of change; None where it is no plain file.

    The time of the last change of the inode is among them, which no program can set: an edit that keeps size and
    modification time is seen. Waits until a later change would have another time.

    Raises:
        OSError: it cannot be looked at.
    """
    found = os.stat(path)
    if 0 <= time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < TICK:
        time.sleep(TICK / 1e9)
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        return None
    text = json.dumps([os.path.abspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns])
    return hashlib.sha256(text.encode()).digest()


class Contents:
    """Looks into files.

    Args:
        cache: folder for what can be made again; None remembers nothing.
        console: shows progress where files are read; None shows nothing.
    """

    def __init__(self, cache: Path | None = None, console: Console | None = None) -> None:
        self.folder = None if cache is None else cache / "contents"
        self.console = console or Console(quiet=True)

    def of(self, files: Iterable[Path]) -> dict[Path, str | None]:
        """The SHA-256 of every file, hexadecimal; None where it cannot be read, or is no plain file."""
        known, found = self._known(), dict[Path, str | None]()
        keys = {path: _key(path) for path in dict.fromkeys(files)}
        for path, key in keys.items():
            found[path] = known.get(key) if key else None
        unread = [path for path, key in keys.items() if key and not found[path]]
        if not unread:
            return found
        lines, written = list[str](), time.monotonic()
        with threads(WORKERS, "read") as pool, self.console.track("read files", len(unread), "files") as track:
            for path, digest in zip(unread, ahead(pool, _read, unread, WAITING), strict=True):
                found[path], key = digest, keys[path]
                if digest and key == _key(path):  # else it changed while it was read
                    lines.append(f"{key} {digest}\n")
                if time.monotonic() > written + SECONDS:
                    self._remember(lines)
                    lines, written = [], time.monotonic()
                track.advance()
        self._remember(lines)
        return found

    def mark(self, files: Mapping[str, Path], *more: str) -> str:
        """SHA-256 over names and contents: equal where all are equal, wherever the files lie.

        Args:
            files: by the name that they are known by.
            more: what else is to be equal.
        """
        digests = self.of(files.values())
        listing = {name: digests[files[name]] or ABSENT for name in sorted(files)}
        mark = hashlib.sha256(json.dumps([listing, *more]).encode()).hexdigest()
        if self.folder is not None:
            with suppress(OSError):
                if not (self.folder / f"{mark}.json").exists():
                    write_atomic(self.folder / f"{mark}.json", json.dumps(listing))
        return mark

    def changed(self, one: str, other: str) -> str:
        """Which files two marks differ in: `` (3 files, e.g. a.png)``; nothing where that is not known any more."""
        if self.folder is None:
            return ""
        try:
            left, right = (json.loads((self.folder / f"{mark}.json").read_text()) for mark in (one, other))
            names = sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
        except (OSError, ValueError, TypeError, AttributeError):
            return ""
        return f" ({len(names)} file{'s' * (len(names) > 1)}, e.g. {names[0]})" if names else ""

    def _known(self) -> dict[str, str]:
        if self.folder is None:
            return {}
        try:
            lines = (self.folder / "known.txt").read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return {}
        pairs = (line.split(" ") for line in lines if len(line) == 129)
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def _remember(self, lines: list[str]) -> None:
        if self.folder is None or not lines:
            return
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            # in one piece, so that lines of several processes do not mix; after a line's end, should one be half there
            with (self.folder / "known.txt").open("ab", buffering=0) as file:
                file.write(("\n" + "".join(lines)).encode())


def _key(path: Path) -> str | None:
    with suppress(OSError, ValueError):
        key = file_key(path)
        return key.hex() if key else None
    return None


def _read(path: Path) -> str | None:
    with suppress(OSError):
        return sha256(path)
    return None
