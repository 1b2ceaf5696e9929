"""What the preparation of a dataset may use.

A dataset that has to be converted before its reader can list it has a function beside its reader::

    def prepare(root: Path, source: Path, work: Work) -> None

It makes at ``root`` what the reader reads, from what lies at ``source`` (the same folder unless another one
is given).
Called again after an interruption it goes on, or finds that all is done; it never leaves a half-written file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ader.console import Console


@dataclass(frozen=True)
class Work:
    """A preparation's surroundings.

    Attributes:
        console: ``say`` a line, ``track`` progress.
        check: to be called often; raises when the user interrupts.
        workers: threads or processes to use, from 1.
    """

    console: Console
    check: Callable[[], None]
    workers: int
