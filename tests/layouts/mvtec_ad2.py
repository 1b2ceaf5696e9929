"""MVTec AD 2: lighting in the names, masks inside the public test folder, private test images without labels."""

from __future__ import annotations

import shutil
from pathlib import Path

from ader.datasets.mvtec_ad2 import CATEGORIES
from ader.testing.toy import write_mvtec

LIGHTS = ("regular", "overexposed", "underexposed", "shift_1")


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    count = len(LIGHTS)
    write_mvtec(root, CATEGORIES, train=2, good=count, bad=count, size=32, defects=("bad",))
    for category in CATEGORIES:
        place = root / category
        (place / "test").rename(place / "test_public")
        (place / "ground_truth").rename(place / "test_public/ground_truth")
        for number, light in enumerate(LIGHTS):
            for part in ("good", "bad"):
                _rename(place / f"test_public/{part}/{number:03}.png", f"000_{light}.png")
            _rename(place / f"test_public/ground_truth/bad/{number:03}_mask.png", f"000_{light}_mask.png")
        for image in sorted((place / "train/good").iterdir()):
            _rename(image, f"{image.stem}_regular.png")
        (place / "validation/good").mkdir(parents=True)
        _rename(place / "train/good/001_regular.png", "../../validation/good/000_regular.png")
        for part, name in (("test_private", "000_regular.png"), ("test_private_mixed", "000_mixed.png")):
            (place / part).mkdir()
            shutil.copy(place / "test_public/good/000_regular.png", place / part / name)
    return root


def _rename(file: Path, name: str) -> None:
    file.rename(file.parent / name)
