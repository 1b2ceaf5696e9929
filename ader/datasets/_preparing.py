"""What the preparation of a dataset may use.

A dataset that has to be converted before its reader can list it has a function beside its reader::

    def prepare(root: Path, source: Path, work: Work) -> None

It makes at ``root`` what the reader reads, from what lies at ``source`` (the same folder unless another one
is given).
Called again after an interruption it goes on, or finds that all is done; it never leaves a half-written file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ader.data.listing import AGAIN
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.files import write_atomic
from ader.system.parallel import ahead, threads

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """What a preparation is given: where it reports, when it must stop, how many workers it may use.

    Attributes:
        console: ``say`` a line, ``track`` progress.
        check: to be called often; raises when the user interrupts.
        workers: threads or processes to use, from 1.
    """

    console: Console
    check: Callable[[], None]
    workers: int


def make_files(work: Work, name: str, items: Sequence[T], make: Callable[[T], tuple[Path, bytes]]) -> None:
    """Makes a file of every item, in threads and with progress.

    Args:
        work: surroundings.
        name: of the task, for progress.
        items: any.
        make: gives a file's path and content. Called for all items also when earlier files are there: a file is kept
            if it has this very content, so that what was damaged or made from other data is made again.
    """
    for_all(work, name, items, lambda item: keep_or_write(*make(item)))


def for_all(work: Work, name: str, items: Sequence[T], do: Callable[[T], object]) -> None:
    """Does something with every item, in threads and with progress; an interruption drops what has not begun.

    Args:
        work: surroundings.
        name: of the task, for progress.
        items: any, a file each.
        do: called in a thread.
    """
    with work.console.track(name, len(items), "files") as track, threads(work.workers, "prepare") as pool:
        for _ in ahead(pool, do, items, 4 * work.workers):
            work.check()
            track.advance()


def keep_or_write(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all, unless it has this content already.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): make room, or change permissions") from error


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Gray (H, W) or RGB (H, W, 3) as a PNG file; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def copy(source: Path, target: Path, write: Callable[[Path, Path], object]) -> None:
    """Makes a file out of another, unless it is there; under another name first, so that a file of this name is whole.

    Args:
        source: the other file.
        target: the file; its folder is made.
        write: called with the source and a temporary name.

    Raises:
        UserError: the source does not exist, or the target cannot be written.
    """
    if target.exists():
        return
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(source, temporary)
        os.replace(temporary, target)
    except FileNotFoundError as error:
        raise UserError(f"{source} does not exist: {AGAIN}") from error
    except OSError as error:
        raise UserError(
            f"{source} cannot be copied to {target} ({error.strerror}): make room, or change permissions"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
