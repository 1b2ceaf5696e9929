"""Files that appear whole or not at all, and what tells files apart."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any, BinaryIO
from weakref import WeakSet

from ader.system.errors import UserError


class WriteError(OSError):
    """A file that the disk does not take: it is full, over a quota, read-only or failing; ``filename`` is its path."""

    @property
    def advice(self) -> str:
        """One line: which file, why, how much room there is, what to do."""
        try:
            folder = next((path for path in Path(self.filename).absolute().parents if path.exists()), Path("/"))
            room = f"; {shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
        except OSError:
            room = ""
        return (
            f"{self.filename} cannot be written ({self.strerror}{room}): make room or change permissions there, and "
            "give the same command again"
        )


#: Can only be asked for by setting it, which is not for when several threads are at work.
UMASK = os.umask(0)
os.umask(UMASK)


#: What is neither a file nor a folder: opening or reading it may wait for ever.
SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path) -> None:
    """To be called before a user's file is opened: a FIFO or a device may wait for ever, or never end.

    Links are followed. What is missing, a folder or out of reach passes: opening it fails by itself.

    Raises:
        UserError: it is a FIFO, a socket or a device.
    """
    if kind := special(path):
        raise UserError(f"{path} is {kind}, not a file: remove it, or put the file in its place")


def special(path: Path) -> str | None:
    """``"a FIFO"``, ``"a socket"`` or ``"a device"``; None for all else, as for ``check_regular``."""
    try:
        return SPECIAL.get(stat.S_IFMT(path.stat().st_mode))
    except (OSError, ValueError):
        return None


def write_atomic(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Writes ``path`` so that a reader, or a crash at any moment, sees the old file or the whole new one.

    The content goes to a temporary file in the same folder, is forced to disk and then renamed over ``path``.
    ``content`` may be a function that writes to the open binary file (for large payloads).

    Raises:
        WriteError: the disk is full, or refuses for another reason; the old file is as it was.
    """
    temporary = _temporary(path, content)
    try:
        with _naming(path):
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_together(folder: Path, contents: Mapping[str, bytes | str]) -> None:
    """Writes several files of a folder, by name, of which the last one says that all are there.

    A reader, or a crash at any moment, sees all old files, all new ones, or no last one. All content is on disk before
    the first old file goes, so that only renaming lies between old and new. Where the old files but the last are as
    they should be, there is no moment without the last one.

    Raises:
        WriteError: as ``write_atomic``.
    """
    temporaries: dict[str, Path] = {}
    last = list(contents)[-1]
    changed = {
        name: content for name, content in contents.items() if name == last or not _holds(folder / name, content)
    }
    try:
        for name, content in changed.items():
            temporaries[name] = _temporary(folder / name, content)
        if any(name != last and os.path.lexists(folder / name) for name in changed):
            with _naming(folder / last):
                (folder / last).unlink(missing_ok=True)
        for name, temporary in temporaries.items():
            with _naming(folder / name):
                _sync_folder(folder)  # in this order on disk as well
                os.replace(temporary, folder / name)
        with _naming(folder):
            _sync_folder(folder)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _holds(path: Path, content: bytes | str) -> bool:
    """Whether that is what the file holds already."""
    try:
        return special(path) is None and path.read_bytes() == _encoded(content)
    except OSError:
        return False


def _encoded(content: bytes | str) -> bytes:
    return content if isinstance(content, bytes) else content.encode(errors="backslashreplace")


def _temporary(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> Path:
    """A file beside ``path`` with that content, forced to disk."""
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # the name is cut: with what is added to it, it must not be longer than file systems allow
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".tmp")
    try:
        file = os.fdopen(descriptor, "wb")
        heard = _Heard(file)
        with _naming(path, heard), file:
            if callable(content):
                content(heard)  # type: ignore[arg-type]
            else:
                file.write(_encoded(content))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)  # mkstemp makes files private; results are to be shared
    except BaseException:
        os.unlink(temporary)
        raise
    return Path(temporary)


class _Heard:
    """A file to write to that keeps the disk's error: torch's writer replaces it by one without a reason."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextmanager
def _naming(path: Path, heard: _Heard | None = None) -> Iterator[None]:
    """The disk's refusals as ``WriteError``, with the name of the file that was to be there."""
    try:
        yield
    except Exception as error:
        reason = heard.error if heard and heard.error else error
        if not isinstance(reason, OSError) or isinstance(reason, WriteError) or reason.errno is None:
            raise
        raise WriteError(reason.errno, reason.strerror, str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable (POSIX; elsewhere folders cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks know it for files only
            raise
    finally:
        os.close(descriptor)


def open_to_write(path: Path) -> FileIO:
    """Makes the file where it is missing. Not emptied, and not only for appending, which would ignore the place."""
    return FileIO(_opened_to_write(path), "r+")


def _opened_to_write(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


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


class Lock(FileIO):
    """A locked file, which its owner's closing unlocks whoever else has it open: a child forked a moment ago has not
    closed its own yet (``keep_from_children``)."""

    owner: int | None = None  # the process that has locked it

    def close(self) -> None:
        if not self.closed and os.getpid() == self.owner:
            with suppress(OSError):
                fcntl.flock(self, fcntl.LOCK_UN)
        super().close()


def try_lock(path: Path) -> FileIO | None:
    """Holds a file, which is made where it is missing, until it is closed or the process ends.

    Returns:
        The open file, or None while another process holds it, or has just moved or removed it.

    Raises:
        OSError: it cannot be opened, or the disk knows no locks.
    """
    with ExitStack() as on_failure:
        lock = on_failure.enter_context(Lock(_opened_to_write(path), "r+"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.owner = os.getpid()
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                on_failure.pop_all()
                keep_from_children(lock)
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass
    return None


def remove_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Deletes temporary files that a killed writer left in ``folder`` and below.

    Args:
        folder: searched.
        older_than: seconds; where others may be writing.
    """
    for path in folder.rglob(".*.tmp"):
        with suppress(OSError):  # another's, or gone
            if time.time() - path.lstat().st_mtime >= older_than:
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
    """Of a file's content.

    Raises:
        UserError: it is no file; see ``check_regular``.
    """
    check_regular(file)
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
