"""DAGM 2007: extensions in capitals, labels for defective images only, one class unpacked into itself."""

from __future__ import annotations

from pathlib import Path

from ader.datasets.dagm import CATEGORIES
from tests.layouts.visa import blot, photo


def write(root: Path) -> Path:
    """Three training and three test images of each class, the second of each defective."""
    for place, category in enumerate(CATEGORIES, start=1):
        folder = root / category / category if category == "Class3" else root / category
        for part, first in (("Test", 1), ("Train", 576 if place <= 6 else 1151)):
            for number in range(first, first + 3):
                photo(folder / part / f"{number:04}.PNG", mode="L")
            blot(folder / part / "Label" / f"{first + 1:04}_label.PNG")
            (folder / part / "Label" / "Labels.txt").write_text(f"1\n1\t1\t{first + 1:04}.PNG\n")
    return root
