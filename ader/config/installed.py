"""What installed packages add: their entry points, looked for once."""

from __future__ import annotations

import functools
import os
import sys
from importlib.metadata import EntryPoint, entry_points


def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group. They are looked for again when a folder that Python imports from has changed."""
    return _found(group, tuple(map(_state, sys.path)))


@functools.lru_cache(maxsize=64)
def _found(group: str, folders: tuple[tuple[str, int | None], ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _state(folder: str) -> tuple[str, int | None]:
    """A folder and when something was put into it."""
    try:
        return folder, os.stat(folder or ".").st_mtime_ns
    except OSError:
        return folder, None
