"""InvAD-lite beside ADer's code (clone: ``ADer``; packages: einops, opencv-python)."""

from __future__ import annotations

from pathlib import Path

from parity import Pair, Published
from parity.invad import beside_ader

PUBLISHED = Published(params=17.1, macs=9.3)


def pair(upstreams: Path, batch: int) -> Pair:
    """The small network."""
    return beside_ader("invad_lite", "resnet34", upstreams, batch)
