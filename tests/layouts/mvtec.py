"""MVTec AD: see ``ader.testing.toy``."""

from __future__ import annotations

from pathlib import Path

from ader.datasets.mvtec import CATEGORIES
from ader.testing.toy import write_mvtec


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    write_mvtec(root, CATEGORIES, train=1, good=1, bad=1, size=32)
    (root / "license.txt").touch()
    (root / "bottle" / "readme.txt").touch()
    return root
