"""MVTec 3D-AD: images in ``rgb``, points in ``xyz``, masks in ``gt`` (of good images too in all categories but one)."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ader.datasets.mvtec3d import CATEGORIES
from ader.testing.toy import write_mvtec

WITHOUT_EMPTY_MASKS = "tire"


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    write_mvtec(root, CATEGORIES, train=2, good=1, bad=2, size=32, defects=("combined", "hole"), suffix="")
    for category in CATEGORIES:
        place = root / category
        (place / "validation/good").mkdir(parents=True)
        (place / "train/good/001.png").rename(place / "validation/good/000.png")
        for mask in sorted(place.glob("ground_truth/*/*.png")):
            _move(mask, place / "test" / mask.parent.name / "gt" / mask.name)
        for image in [
            *place.glob("train/good/*.png"),
            *place.glob("validation/good/*.png"),
            *place.glob("test/*/*.png"),
        ]:
            (image.parent / "xyz").mkdir(exist_ok=True)
            Image.new("F", (32, 32), 0.5).save(image.parent / "xyz" / f"{image.stem}.tiff")
            _move(image, image.parent / "rgb" / image.name)
        if category != WITHOUT_EMPTY_MASKS:
            (place / "test/good/gt").mkdir()
            Image.new("L", (32, 32)).save(place / "test/good/gt/000.png")
        for folder in [*place.glob("ground_truth/*"), place / "ground_truth"]:
            folder.rmdir()
    return root


def _move(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    file.rename(target)
