"""How this process was started, and what its starter is told."""

from __future__ import annotations

import json
import os
from contextlib import suppress

#: Names the file in which a program that ends with an error says why, for the sweep that started it.
WHY = "ADER_WHY"

#: Names the number of cores that a program has, where its starter shares the machine between several.
CORES = "ADER_CORES"


def processes() -> int:
    """How many torchrun started of this program; 1 without it."""
    return _number("WORLD_SIZE", 1)


def cores() -> int:
    """Cores of this machine that this process may keep busy: those that the system and a sweep leave to it, divided by
    the processes that torchrun started here."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _number(CORES, allowed)) // _number("LOCAL_WORLD_SIZE", 1))


def tell_why(kind: str, message: str) -> None:
    """Leaves the reason of an error to the sweep that started this program, if one did."""
    if file := os.environ.get(WHY):
        with suppress(OSError), open(file, "w", encoding="utf-8", errors="backslashreplace") as stream:
            json.dump({"kind": kind, "message": message}, stream)


def _number(variable: str, otherwise: int) -> int:
    said = os.environ.get(variable, "")
    return max(1, int(said)) if said.isascii() and said.isdecimal() else otherwise
