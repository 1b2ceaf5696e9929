"""MPDD: the layout of MVTec AD."""

from __future__ import annotations

from pathlib import Path

from ader.testing.toy import write_mvtec

DEFECTS = {
    "bracket_black": ("hole", "scratches"),
    "bracket_brown": ("bend_and_parts_mismatch", "parts_mismatch"),
    "bracket_white": ("defective_painting", "scratches"),
    "connector": ("parts_mismatch",),
    "metal_plate": ("major_rust", "scratches", "total_rust"),
    "tubes": ("anomalous",),
}


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    for category, defects in DEFECTS.items():
        write_mvtec(root, (category,), train=2, good=1, bad=len(defects), size=32, defects=defects)
    return root
