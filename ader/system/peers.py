"""Which of a run's processes died: each holds a connection to the first one, which the system closes with a process,
however that ends. torch only tells that something is wrong with a neighbor, and some of its calls wait for hours."""

from __future__ import annotations

import secrets
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from ader.system.files import keep_from_children
from ader.system.interrupt import Stopped

#: Seconds that a process has, after another one died, to end by itself: it may be in the midst of a long call.
GRACE = 5.0

MEETING = 600  # seconds for all processes to come
LOOK = 0.1  # seconds between two looks at what is waited for: signals are answered in between
HERE, LEFT, DEAD = b"H", b"L", b"D"  # kinds of messages; each is followed by a process's number
SIZE = 5  # bytes of a message
TOKEN = 16  # bytes that tell a process of this run from a stranger
KEY = "ader/peers"


class Peers:
    """The other processes of a run, as far as this one must know of their end.

    Args:
        rank: of this process.
        world: how many there are.
        give_up: called, in a thread, when this process still runs ``GRACE`` seconds after another one died.

    Attributes:
        missing: those of which is not known that they came.
        left: those that said that they end by themselves.
        dead: those that ended without a word.
    """

    def __init__(self, rank: int, world: int, give_up: Callable[[], object]) -> None:
        self.rank, self.world, self.give_up = rank, world, give_up
        self.missing = set(range(world)) - {rank}
        self.left: set[int] = set()
        self.dead: set[int] = set()
        self._changed = threading.Condition()
        self._lines: dict[socket.socket, int] = {}

    def meet(self, store: Any, host: str) -> None:
        """Returns once all are there.

        Args:
            store: of keys and values, shared by the processes.
            host: of the first process.

        Raises:
            Stopped: some did not come.
        """
        until = time.monotonic() + MEETING
        if self.rank == 0:
            self._receive(store, host, until)
        else:
            self._join(store, host, until)
        threading.Thread(target=self._listen, daemon=True).start()

    def speaks(self) -> bool:
        """Whether this process is the one that tells of the dead: the first that lives, as far as it knows."""
        return self.rank == min(set(range(self.world)) - self.dead - self.missing)

    def lost(self, seconds: float) -> list[int]:
        """The processes that died, ascending; waits for one to be known, but not where one left by itself."""
        with self._changed:
            self._changed.wait_for(lambda: self.dead or self.left, seconds)
            return sorted(self.dead)

    def leave(self) -> None:
        """Says that this process will end by itself, whatever comes of it."""
        self._send(LEFT, self.rank)

    def _receive(self, store: Any, host: str, until: float) -> None:
        """The first process: waits for all others."""
        token = secrets.token_bytes(TOKEN)
        with socket.create_server(("", 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
            store.set(KEY, token + str(listening.getsockname()[1]).encode())
            while self.missing:
                if listening not in self._wait([listening, *self._lines], until):
                    continue
                line, _ = listening.accept()
                line.settimeout(5)
                with suppress(OSError):
                    if _read(line, TOKEN) == token:
                        number = int.from_bytes(_read(line, SIZE)[1:], "big")
                        self._add(line, number)
                        continue
                line.close()
        self._send(HERE, 0)

    def _join(self, store: Any, host: str, until: float) -> None:
        """Any other process: meets the first one."""
        while not store.check([KEY]):
            self._still(until)
            time.sleep(LOOK)
        content = store.get(KEY)
        line = socket.create_connection((host, int(content[TOKEN:])), timeout=60)
        line.sendall(content[:TOKEN] + HERE + self.rank.to_bytes(4, "big"))
        self._add(line, 0)
        while self.missing and not self.dead:
            self._wait([line], until)

    def _wait(self, lines: list[socket.socket], until: float) -> list[socket.socket]:
        """Those where something arrived, after a short time; messages are taken."""
        self._still(until)
        ready = select.select(lines, [], [], LOOK)[0]
        for line in ready:
            if line in self._lines:
                self._take(line)
        return ready

    def _still(self, until: float) -> None:
        if time.monotonic() > until:
            raise Stopped(f"not all processes came within {MEETING // 60} minutes: run the same command again")

    def named(self, numbers: set[int]) -> str:
        """``process 1 of 2``, ``processes 1, 3 of 4``."""
        return f"process{'es' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))} of {self.world}"

    def _add(self, line: socket.socket, number: int) -> None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine may go without a word, too
        for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
        keep_from_children(cast(Any, line))  # one that outlives its parent would keep it alive in the others' eyes
        self._lines[line] = number
        self.missing.discard(number)

    def _send(self, kind: bytes, number: int) -> None:
        for line in list(self._lines):
            with suppress(OSError):
                line.sendall(kind + number.to_bytes(4, "big"))

    def _listen(self) -> None:
        """A thread's life."""
        until: float | None = None
        while self._lines and (until is None or time.monotonic() < until):
            wait = None if until is None else max(0.0, until - time.monotonic())
            for line in select.select(list(self._lines), [], [], wait)[0]:
                self._take(line)
            if self.dead and until is None:
                until = time.monotonic() + GRACE
        if until is not None:
            time.sleep(max(0.0, until - time.monotonic()))
            self.give_up()

    def _take(self, line: socket.socket) -> None:
        """A message, or the end of a connection: without a last word, of its process."""
        number, message = self._lines[line], b""
        with suppress(OSError):
            message = _read(line, SIZE)
        kind, about = message[:1], int.from_bytes(message[1:], "big")
        with self._changed:
            if kind == HERE:
                self.missing.clear()
            elif kind == LEFT:
                self.left.add(number)
            elif kind == DEAD:
                self.dead.add(about)
            else:
                del self._lines[line]
                line.close()
                if number not in self.left:
                    self.dead.add(number)
                    self._send(DEAD, number)
            self._changed.notify_all()


def _read(line: socket.socket, size: int) -> bytes:
    """So many bytes; fewer, or none, where the connection has ended."""
    content = b""
    while len(content) < size and (more := line.recv(size - len(content))):
        content += more
    return content
