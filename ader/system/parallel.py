"""Work in threads; processes that belong together."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

PR_SET_PDEATHSIG = 1  # of Linux's prctl

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def threads(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool whose waiting tasks are dropped at the end: after an error, or Ctrl-C, the rest is not done first.

    Args:
        workers: how many; below 1 counts as 1.
        name: the threads' names begin with it.
    """
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    """``map``, but with at most ``most`` results waiting to be taken: not all of them fit into memory."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Has this process get a signal when the one that started it ends, however that ends (Linux; elsewhere nothing).

    Args:
        parent: its process number, as it was before this one could have lost it.
        number: of the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it ended before
            os._exit(1)
