"""Who is at work in a run's folder: a lock that no crash leaves behind, with its holder's name, for all machines.

``.lock`` is held with ``flock`` where the disk knows that, and says in JSON who holds it. The holder touches it every
``BEAT`` seconds. On the machine of the holder ``flock`` decides alone. It may not reach further (NFS with
``local_lock``, Lustre with ``localflock``): for other machines, and on disks without locks, the holder is alive while
its last touch is younger than ``SILENCE``, by the clock of the disk. Two that look at ``.lock`` at the same instant
take turns (``_turn``), so that not both of them find it free.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import getpass
import json
import os
import secrets
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from textwrap import shorten

from ader.system.errors import UserError
from ader.system.files import keep_from_children, open_to_write, try_lock

FILE = ".lock"

#: Seconds from one touch to the next.
BEAT = 15.0

#: Seconds without a touch after which a holder is dead: NFS keeps what it knows of a file for up to 60.
SILENCE = 90.0

#: How often a held folder is looked at before it is refused, and the seconds in between: another may be about to say
#: who it is, and ``holder`` takes part in the lock for an instant.
TRIES, PAUSE = 6, 0.05

#: What a disk says that knows no locks (NFS without its daemon, Lustre, some FUSE).
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}

#: What is read of a lock file, and of each text in it.
MOST_BYTES, MOST_LETTERS = 1 << 16, 2000


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that is at work in a folder.

    Attributes:
        host: name of its machine.
        pid: its number there.
        user: who started it.
        since: when it took the folder, UTC.
        command: its words; empty where nobody said.
        machine: what tells machines apart, see ``this_machine``.
        token: of this hold alone.
    """

    host: str
    pid: int
    user: str
    since: datetime
    command: str
    machine: str
    token: str

    def __str__(self) -> str:
        doing = f" ({shorten(self.command, 100, placeholder=' ...')})" if self.command else ""
        return f"pid {self.pid} on {self.host} since {self.since:%Y-%m-%d %H:%M} UTC{doing}"

    def as_line(self) -> bytes:
        """JSON, as in the lock file."""
        return json.dumps(asdict(self) | {"since": self.since.isoformat()}).encode() + b"\n"

    @classmethod
    def of(cls, content: bytes) -> Holder | None:
        """What ``as_line`` made; None for anything else, as an empty file."""
        try:
            said = json.loads(content.partition(b"\n")[0])
            texts = {name: str(said[name])[:MOST_LETTERS] for name in ("host", "user", "command", "machine", "token")}
            since = datetime.fromisoformat(said["since"]).astimezone(timezone.utc)
            return cls(pid=int(said["pid"]), since=since, **texts)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


class Busy(UserError):
    """Another run is at work in the folder.

    Attributes:
        holder: that run; None where it did not say.
    """

    kind = "busy"

    def __init__(self, folder: Path, holder: Holder | None) -> None:
        who = f": {holder}" if holder else ""
        super().__init__(f"another run is at work in {folder}{who}: wait for it, or give run=NAME")
        self.holder = holder


def this_machine() -> tuple[str, str]:
    """Its name, and what tells it apart: the mark of the running kernel, which is what keeps ``flock``.

    Machines may share a name (``localhost``), and containers on one machine may have several.
    """
    host = socket.gethostname()
    try:
        return host, Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # not Linux
        return host, host


class Hold:
    """A folder that this process holds, until ``release`` or the end of the process.

    Args:
        path: of the lock file.
        file: the same, open, and locked where the disk knows that.
        me: what is written in it.
        notes: what the run's log should say of how it was taken.

    Attributes:
        taken_by: who took it over, after this process gave no sign of life for too long (a laptop that slept, a disk
            that was away).
    """

    def __init__(self, path: Path, file: FileIO, me: Holder, notes: Sequence[str]) -> None:
        self.path, self.me, self.notes = path, me, tuple(notes)
        self.taken_by: Holder | None = None
        self._file = file
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show_life, name="lock", daemon=True)

    def start(self) -> None:
        """Begins to touch the file."""
        self._thread.start()

    def _show_life(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):  # a disk that is away may come back
                other = _look(self.path)
                if other is not None and other != self.me:
                    self.taken_by = other
                    _thread.interrupt_main(signal.SIGTERM)  # ends the run as that signal does, if it listens
                    return
                os.utime(self._file.fileno())

    def release(self) -> None:
        """Leaves the folder, and says so in the file. In a child that was forked it does nothing."""
        if os.getpid() != self.me.pid:
            return
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        with suppress(OSError):
            if _read(self._file) == self.me:
                os.ftruncate(self._file.fileno(), 0)
        self._file.close()


def take(folder: Path, command: Sequence[str] = ()) -> Hold:
    """Takes a folder, which is made where it is missing.

    Args:
        folder: to be held.
        command: the words of the command, for others to see.

    Raises:
        Busy: another run is at work there.
        OSError: the folder or its lock file cannot be written.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _try_once(folder, _me(command))
        except (Busy, FileNotFoundError):  # another that gives up removes what it made
            if not tries_left:
                raise
        time.sleep(PAUSE)
    raise AssertionError


def _me(command: Sequence[str]) -> Holder:
    host, machine = this_machine()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = str(os.getuid())
    now = datetime.now(timezone.utc).replace(microsecond=0)
    words = " ".join(command)[:MOST_LETTERS]
    return Holder(
        host=host, pid=os.getpid(), user=user, since=now, command=words, machine=machine, token=secrets.token_hex(8)
    )


def _try_once(folder: Path, me: Holder) -> Hold:
    path, notes, locks = folder / FILE, list[str](), True
    with ExitStack() as on_failure:
        try:
            file = try_lock(path)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            file, locks = open_to_write(path), False
            keep_from_children(file)
            notes.append(
                f"no locks on the disk of {folder}: other runs see this one by its touching {FILE}, and after a crash "
                f"they are kept out for {SILENCE:.0f} s"
            )
        if file is None:
            raise Busy(folder, _look(path))
        on_failure.enter_context(file)
        with _turn(folder, me.machine if locks else ""):
            before = _read(file)
            if before is not None and not (locks and before.machine == me.machine):
                silence = _silence(folder, file)
                if silence < SILENCE:
                    raise Busy(folder, before)
                notes.append(f"taken over from {before}, which gave no sign of life for {silence:.0f} s")
            _write(file, me)
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):  # it was just removed with its folder
                raise Busy(folder, None)
        on_failure.pop_all()
    return Hold(path, file, me, notes)


@contextmanager
def _turn(folder: Path, machine: str) -> Iterator[None]:
    """Keeps all others from looking at the lock file and writing it, for an instant.

    A file says whose turn it is; its name has the time, so that none that a crash left is in the way for long, and
    the machine where ``flock`` keeps the others of that machine out: then what is left of it is of no account. Each
    makes its file first and looks for others then. So at most one goes on; perhaps none, and both try again.

    Raises:
        Busy: it is another's turn.
    """
    now = int(_now(folder) // SILENCE)
    mine = folder / f"{FILE}.{now}.{machine}"
    try:
        os.close(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if machine else os.O_EXCL), 0o666))
    except FileExistsError:
        raise Busy(folder, None) from None
    try:
        for other in folder.glob(f"{FILE}.*.*"):
            _, time_of, whose = other.name[1:].split(".", 2)
            if other == mine or not time_of.isdigit():
                continue
            if abs(int(time_of) - now) > 1 or (machine and whose == machine):
                other.unlink(missing_ok=True)
            else:
                raise Busy(folder, None)
        yield
    finally:
        mine.unlink(missing_ok=True)


def holder(folder: Path) -> Holder | None:
    """Who is at work in a folder, without keeping anyone from taking it; None: nobody, or nobody who says so."""
    with suppress(OSError), _open(folder / FILE) as file:
        found = _read(file)
        if found is None:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            alive = found.machine != this_machine()[1] and _silence(folder, file) < SILENCE
        except BlockingIOError:
            alive = True
        except OSError:  # a disk without locks
            alive = _silence(folder, file) < SILENCE
        return found if alive else None
    return None


def _look(path: Path) -> Holder | None:
    """Whom a lock file names; None where it does not, or cannot be read."""
    with suppress(OSError), _open(path) as file:
        return _read(file)
    return None


@contextmanager
def _open(path: Path) -> Iterator[FileIO]:
    """To read; opened anew each time, so that network disks look again.

    Raises:
        OSError: it is no file, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file")
    with FileIO(descriptor) as file:
        keep_from_children(file)
        yield file


def _read(file: FileIO) -> Holder | None:
    return Holder.of(os.pread(file.fileno(), MOST_BYTES, 0))


def _write(file: FileIO, me: Holder) -> None:
    """The new line goes over the old one in one go, so that no one reads half of it; the rest is cut off then."""
    line = me.as_line()
    if os.pwrite(file.fileno(), line, 0) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(file.fileno(), len(line))
    os.fsync(file.fileno())  # other machines see it now


def _silence(folder: Path, file: FileIO) -> float:
    """Seconds since the holder's last touch; or until then, after the clock was set back."""
    try:
        now = _now(folder)
    except OSError:  # a reader that may not write there
        now = time.time()
    return abs(now - os.fstat(file.fileno()).st_mtime)


def _now(folder: Path) -> float:
    """The time by the clock of the disk, in seconds: those of machines differ."""
    with tempfile.TemporaryFile(dir=folder, prefix=f"{FILE}-time.", suffix=".tmp") as file:
        return os.fstat(file.fileno()).st_mtime
