"""EfficientAD-M beside nelson1425's reimplementation (clone: ``EfficientAD``)."""

from __future__ import annotations

from pathlib import Path

from parity import Pair
from parity.efficientad import pair as pair_of


def pair(upstreams: Path, batch: int) -> Pair:
    """As for EfficientAD-S, with the wider network."""
    return pair_of(upstreams, batch, "efficientad_m", small=False)
