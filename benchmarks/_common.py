"""What several benchmarks need: memory of this process, figures in a file. Standard library only."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def resident(key: str = "VmRSS") -> int:
    """Bytes of this process now (``VmRSS``) or at its peak (``VmHWM``); without /proc, always the peak."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        return peak_of_getrusage()


def peak_of_getrusage() -> int:
    """Bytes. Not the first choice: a process inherits this peak from the one that started it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> bool:
    """Sets ``VmHWM`` to what this process holds now, garbage collected.

    Returns:
        False where the system has no way to (it needs Linux): the peak may then be an earlier one, an upper bound.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed but kept would hide what the next one needs
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
    except (OSError, AttributeError):
        return False
    return True


def write_json(file: Path, figures: Mapping[str, Any]) -> None:
    """Writes figures to a file, in a folder that is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Figures of an earlier run; none where there was no such run."""
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return figures


def loads(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown: how much else the machine had to do; above one process for each processor times are longer."""
    return [
        f"- `{label}`: load {run['load']:.1f} on {os.cpu_count()} processors meanwhile." for label, run in runs.items()
    ]
