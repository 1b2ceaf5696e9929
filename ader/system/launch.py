"""How this process was started."""

from __future__ import annotations

import os


def processes() -> int:
    """How many torchrun started of this program; 1 without it."""
    said = os.environ.get("WORLD_SIZE", "")
    return int(said) if said.isascii() and said.isdecimal() else 1
