"""KolektorSDD2: images and masks side by side, a mask for every image, and two strays."""

from __future__ import annotations

from pathlib import Path

from tests.layouts.visa import blot, photo

DEFECTIVE = {10021, 20042}


def write(root: Path) -> Path:
    """Seven images, two of them defective, one stray."""
    for folder, numbers in (("train", (10000, 10001, 10021, 10301)), ("test", (20000, 20041, 20042))):
        for number in numbers:
            width = 20 + number % 3  # sizes vary
            photo(root / folder / f"{number}.png", width, 40)
            blot(root / folder / f"{number}_GT.png", width, 40, 255 if number in DEFECTIVE else 0)
    photo(root / "train" / "10301 (copy).png", 20, 40)
    blot(root / "train" / "10301_GT (copy).png", 20, 40, 0)
    (root / "split_weakly_0.pyb").touch()
    return root
