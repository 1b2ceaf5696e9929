"""Tiny ImageNet: 200 folders of training images, and test images that a list names the classes of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

#: WordNet numbers; in the archive's own lists they are in no order.
CLASSES = tuple(f"n{1443537 + 7919 * number:08}" for number in range(200))


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    place = root / "tiny-imagenet-200"
    shuffled = np.random.default_rng(0).permutation(200).tolist()
    for number, name in enumerate(CLASSES):
        _image(place / "train" / name / "images" / f"{name}_0.JPEG", number, gray=number % 50 == 0)
        (place / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t10\t63\t58\n")
    lines = []
    for number, label in enumerate(shuffled):
        _image(place / "val" / "images" / f"val_{number}.JPEG", 1000 + number)
        lines.append(f"val_{number}.JPEG\t{CLASSES[label]}\t0\t32\t44\t62\n")
    (place / "val" / "val_annotations.txt").write_text("".join(lines))
    _image(place / "test" / "images" / "test_0.JPEG", 2000)
    (place / "wnids.txt").write_text("".join(f"{CLASSES[label]}\n" for label in shuffled))
    (place / "words.txt").write_text("".join(f"{name}\tthing\n" for name in CLASSES))
    (root / "__MACOSX").mkdir()
    return root


def _image(path: Path, seed: int, gray: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(noise).convert("L" if gray else "RGB").save(path, "JPEG")
