"""What unpacking and downloading ask of the disk: room, and to be alone."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import RawIOBase
from pathlib import Path

from ader.system.errors import UserError
from ader.system.files import try_lock

#: Called with the bytes done and the bytes there are in all, or 0 where nobody knows.
Progress = Callable[[int, int], object]

#: Called often; may raise to end the work.
Check = Callable[[], object]

BLOCK = 1 << 20  # bytes

#: What some network disks answer to the wish for a lock.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def need_room(folder: Path, size: int, what: str) -> None:
    """Refuses to begin what cannot end well.

    Args:
        folder: exists, on the file system that is written to.
        size: bytes that ``what`` will take.
        what: the first word of the message.

    Raises:
        UserError: fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{what} needs {size / 2**30:.1f} GiB and {folder} has {free / 2**30:.1f} GiB free: make room, or choose "
            "a folder on another disk"
        )


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Errors of the disk are the user's to fix; ``path`` is what is worked on."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"{path}: {why}: check the folder, its permissions and the disk") from error


def write_all(stream: RawIOBase, block: bytes) -> None:
    """To an unbuffered file: a buffered one would fail again, and elsewhere, when it is closed on a full disk."""
    rest = memoryview(block)
    while rest:
        rest = rest[stream.write(rest) or 0 :]


@contextmanager
def alone(file: Path, work: str) -> Iterator[None]:
    """Holds ``file``, which is made where it is missing, for this process; the hold ends with it at the latest.

    Where the disk knows no locks, nothing is held.

    Args:
        file: what stands for the work.
        work: what another process is doing if it holds the file.

    Raises:
        UserError: another process holds the file, or has just moved it to where it belongs.
    """
    with ExitStack() as stack:
        try:
            lock = try_lock(file)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        else:
            if lock is None:
                raise UserError(f"another process is {work}: wait for it, then give the command again")
            stack.enter_context(lock)
        yield
