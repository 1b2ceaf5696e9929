"""MAD-Sim: numbers without zeros in front, camera poses and texts beside the images, one more folder level."""

from __future__ import annotations

from pathlib import Path

from ader.datasets.mad_sim import CATEGORIES
from ader.testing.toy import write_mvtec


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    place = root / "MAD-Sim"
    write_mvtec(place, CATEGORIES, train=1, good=1, bad=3, size=24, defects=("Burrs", "Missing", "Stains"))
    write_mvtec(place, CATEGORIES[:1], train=11, good=11, bad=33, size=24, defects=("Burrs", "Missing", "Stains"))
    for file in sorted(place.rglob("*.png")):
        file.rename(file.with_name(file.name.lstrip("0") if not file.name.startswith("000") else file.name[2:]))
    for category in CATEGORIES:
        for name in ("transforms.json", "license.txt", "readme.txt"):
            (place / category / name).write_text("{}")
    return root
