"""KolektorSDD: items with parts, a label file for every image, names that repeat from item to item."""

from __future__ import annotations

from pathlib import Path

from tests.layouts.visa import blot, photo

DEFECTIVE = {"kos01/Part2", "kos03/Part0"}


def write(root: Path) -> Path:
    """Twelve images, two of them defective."""
    for item in ("kos01", "kos02", "kos03", "kos50"):
        for part in range(3):
            name = f"{item}/Part{part}"
            photo(root / f"{name}.jpg", 20, 50, "L")
            blot(root / f"{name}_label.bmp", 20, 50, 255 if name in DEFECTIVE else 0)
    return root
