"""Magnetic tiles: images and masks side by side, soft borders, four empty masks, pictures of the readme."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ader.datasets.mtd import EMPTY_MASKS
from tests.layouts.visa import blot, photo


def write(root: Path) -> Path:
    """Ten normal images, seven with a defect, four of those with an empty mask."""
    for number in range(10):
        photo(root / "MT_Free" / "Imgs" / f"exp{number % 7}_num_{743 + 10 * number}.jpg", 20, 30 + number, "L")
        blot(root / "MT_Free" / "Imgs" / f"exp{number % 7}_num_{743 + 10 * number}.png", 20, 30 + number, 0)
    for stem in ("MT_Blowhole/Imgs/exp1_num_108719", "MT_Break/Imgs/exp2_num_30", "MT_Crack/Imgs/exp3_num_7"):
        photo(root / f"{stem}.jpg", 20, 30, "L")
        soft_mask(root / f"{stem}.png")
    for stem in ("MT_Fray/Imgs/exp6_num_2", "MT_Uneven/Imgs/exp1_num_1", *EMPTY_MASKS):
        photo(root / f"{stem}.jpg", 20, 30, "L")
        blot(root / f"{stem}.png", 20, 30, 0 if stem in EMPTY_MASKS else 176)
    (root / "README.md").touch()
    photo(root / "dataset.jpg")
    photo(root / "dataset.png")
    return root


def soft_mask(path: Path) -> None:
    """A bright core of 36 pixels and a border of 28 pixels with value 1: 64 pixels above 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((30, 20), np.uint8)
    mask[4:12, 4:12] = 1
    mask[5:11, 5:11] = 255
    Image.fromarray(mask).save(path)
