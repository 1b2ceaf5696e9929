"""Uni-Medical: masks of several gray values, in one category named otherwise than the images; and BMAD's own layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ader.testing.toy import write_mvtec


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    write_mvtec(root, ("brain", "liver", "retinal"), train=2, good=2, bad=2, size=24, defects=("Ungood",), suffix="")
    for mask in sorted((root / "brain/ground_truth/Ungood").iterdir()):
        pixels = np.asarray(Image.open(mask)) // 255
        Image.fromarray(pixels * np.arange(1, 25, dtype=np.uint8)).save(mask)  # 1 to 24 where it was 255
    for mask in sorted((root / "liver/ground_truth/Ungood").iterdir()):
        mask.rename(mask.with_name(f"label_{mask.name}"))
    return root


def write_bmad(root: Path) -> Path:
    """Writes BMAD's folders in three of their variants, and one that Uni-Medical has nothing of."""
    places = {"Brain": "Brain", "Liver": "Liver_AD/hist_DIY", "Resc": "Retina_RESC", "Oct": "Retina_OCT2017"}
    for number, place in enumerate(places.values()):
        bad = "ungood" if number == 1 else "Ungood"
        write_mvtec(root / place, ("x",), train=2, good=2, bad=2, size=24, defects=(bad,), suffix="", seed=number)
        _to_bmad(root / place, bad, label="anomaly_mask" if number == 2 else "label", nested=number == 2)
    return root


def _to_bmad(place: Path, bad: str, label: str, nested: bool) -> None:
    """Moves a category ``x`` in MVTec layout into BMAD's."""
    moves = {
        "train/good": "train/good/img" if nested else "train/good",
        "test/good": "test/good/img",
        f"test/{bad}": f"test/{bad}/img",
        f"ground_truth/{bad}": f"test/{bad}/{label}",
    }
    for source, target in moves.items():
        for file in sorted((place / "x" / source).iterdir()):
            _copy(file, place / target / file.name)
            if source != "train/good":
                _copy(file, place / target.replace("test", "valid") / f"valid_{file.name}")
    for file in sorted((place / "x/test/good").iterdir()):  # empty masks, of which Uni-Medical has none
        (place / "test/good" / label).mkdir(exist_ok=True)
        Image.new("L", (24, 24)).save(place / "test/good" / label / file.name)
    for file in sorted((place / "x").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (place / "x").rmdir()


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.read_bytes())
