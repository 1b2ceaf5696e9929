"""BTAD: folders ``ok`` and ``ko``, images and masks in BMP or PNG, gaps in the numbers, one more folder level."""

from __future__ import annotations

from pathlib import Path

from ader.testing.toy import write_mvtec

#: The extensions of images and masks.
KINDS = {"01": ("bmp", "png"), "02": ("png", "png"), "03": ("bmp", "bmp")}
GAPS = ("01/test/ko/0027.bmp", "01/ground_truth/ko/0027.png", "02/train/ok/0087.png")


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    place = root / "BTech_Dataset_transformed"
    for category, (image, mask) in KINDS.items():
        count = {"01": (1, 29), "02": (89, 1), "03": (1, 1)}[category]
        options = {"defects": ("ko",), "suffix": "", "extension": image}
        write_mvtec(place, (category,), train=count[0], good=1, bad=count[1], size=16, **options)
        for part in ("train", "test"):
            (place / category / part / "good").rename(place / category / part / "ok")
        for file in sorted((place / category).rglob("*.*")):
            suffix = f".{mask}" if "ground_truth" in file.parts else file.suffix
            file.rename(file.with_name(f"0{file.stem}{suffix}"))
    for name in GAPS:
        (place / name).unlink()
    return root
