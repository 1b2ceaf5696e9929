"""MAD-Real: JPEG images with PNG masks of the same stem, one more folder level."""

from __future__ import annotations

from pathlib import Path

from ader.datasets.mad_real import CATEGORIES
from ader.testing.toy import write_mvtec


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    for number, category in enumerate(CATEGORIES):
        extension = "JPG" if number % 2 else "png"
        options = {"defects": ("broken", "stain"), "suffix": "", "extension": extension}
        write_mvtec(root / "MAD-Real", (category,), train=2, good=1, bad=2, size=24, **options)
    return root
