"""Files that appear whole or not at all, and what tells files apart."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any, BinaryIO
from weakref import WeakSet

BLOCK = 4096  # bytes

#: Can only be asked for by setting it, which is not for when several threads are at work.
UMASK = os.umask(0)
os.umask(UMASK)


def write_atomic(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Writes ``path`` so that a reader, or a crash at any moment, sees the old file or the whole new one.

    The content goes to a temporary file in the same folder, is forced to disk and then renamed over ``path``.
    ``content`` may be a function that writes to the open binary file (for large payloads).
    """
    temporary = _temporary(path, content)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def replace_together(folder: Path, contents: Mapping[str, str]) -> None:
    """Writes several files of a folder, by name, of which the last one says that all are there.

    A reader, or a crash at any moment, sees all old files, all new ones, or no last one. All content is on disk before
    the first old file goes, so that only renaming lies between old and new.
    """
    temporaries: dict[str, Path] = {}
    try:
        for name, content in contents.items():
            temporaries[name] = _temporary(folder / name, content)
        (folder / list(contents)[-1]).unlink(missing_ok=True)
        for name, temporary in temporaries.items():
            _sync_folder(folder)  # in this order on disk as well
            os.replace(temporary, folder / name)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    _sync_folder(folder)


def _temporary(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> Path:
    """A file beside ``path`` with that content, forced to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)  # mkstemp makes files private; results are to be shared
    except BaseException:
        os.unlink(temporary)
        raise
    return Path(temporary)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable (POSIX; elsewhere folders cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_write(path: Path) -> FileIO:
    """Makes the file where it is missing. Not emptied, and not only for appending, which would ignore the place."""
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")


_own: WeakSet[IO[Any]] = WeakSet()


def keep_from_children(lock: IO[Any]) -> None:
    """Closes the file in each process that is forked from now on.

    A lock belongs to all who have the file open: a child that outlives its parent would go on holding it.
    """
    _own.add(lock)


def _close_in_child() -> None:
    for lock in list(_own):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)


def try_lock(path: Path) -> FileIO | None:
    """Holds a file, which is made where it is missing, until it is closed or the process ends.

    Returns:
        The open file, or None while another process holds it, or has just moved or removed it.

    Raises:
        OSError: it cannot be opened, or the disk knows no locks.
    """
    with ExitStack() as on_failure:
        lock = on_failure.enter_context(open_to_write(path))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                on_failure.pop_all()
                keep_from_children(lock)
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass
    return None


def remove_leftovers(folder: Path, older: float = 0.0) -> None:
    """Deletes temporary files that a killed writer left in ``folder`` and below.

    Args:
        folder: one's own, unless ``older`` spares what others may be writing.
        older: seconds; younger ones stay.
    """
    for path in folder.rglob(".*.tmp"):
        with suppress(FileNotFoundError):  # others may be at it
            if path.stat().st_mtime <= time.time() - older:
                path.unlink()


@contextmanager
def half_made(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, for what will be renamed to it; what is left of it goes at the end.

    Those of processes that were killed are removed first: a living one holds a lock on its own.

    Raises:
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        with suppress(OSError), _locked_folder(left):
            shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        with suppress(OSError):  # a disk without locks: then no one can tell that it is left
            stack.enter_context(_locked_folder(temporary))
        yield temporary


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sha256(file: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def glimpse(file: Path) -> bytes:
    """A file's size, and a block of its beginning, its middle and its end.

    Tells files apart that were not made to look alike, without reading them whole.
    """
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        parts = [str(size).encode()]
        for place in sorted({0, size // 2, max(0, size - BLOCK)}):
            stream.seek(place)
            parts.append(stream.read(BLOCK))
    return b"".join(parts)
