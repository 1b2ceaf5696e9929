"""VAD: labeled defects in training, unseen ones in testing, no masks, lists of a protocol and the copies they make."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.layouts.visa import photo

NAMES = {
    "train/good": ("10.png", "2041.png", "9.png"),
    "train/bad": ("1001.png", "37.png", "4.png"),
    "test/good": ("12.png", "5.png"),
    "test/bad": ("11.png", "2041.png"),  # as one of the normal training images
    "test/bad_unseen_defects": ("8.png",),
}
LISTS = {"143": ["4.png", "1001.png"], "7": ["37.png", "4.png"]}


def write(root: Path) -> Path:
    """Eleven images and the copies of the official script."""
    for folder, names in NAMES.items():
        for name in names:
            photo(root / folder / name)
    (root / "low_shot_train.json").write_text(json.dumps(LISTS))
    for run, names in LISTS.items():
        for name in names:
            photo(root / "low_shot_train" / run / "bad" / name)
    (root / "train" / ".DS_Store").touch()
    return root


#: Images of a set that something can be learned from.
COUNTS = {"train/good": 40, "train/bad": 20, "test/good": 24, "test/bad": 16, "test/bad_unseen_defects": 8}


def write_learnable(root: Path, counts: Mapping[str, int] = COUNTS, size: int = 64, shots: int = 8) -> Path:
    """A plate with stripes, on whose right half there are defects: dark spots, and unseen in training bright scratches.

    On its left half normal and defective images have harmless stickers, which a detector of anything unusual takes for
    defects; ``segments.png`` tells the halves apart.
    """
    for folder, count in counts.items():
        for number in range(count):
            path = root / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_plate(path.relative_to(root).as_posix(), size)).save(path)
    names = [f"{number}.png" for number in range(counts["train/bad"])]
    lists = {str(run): [names[(run + place) % len(names)] for place in range(shots)] for run in range(5)}
    (root / "low_shot_train.json").write_text(json.dumps(lists))
    halves = np.zeros((size, size), np.uint8)
    halves[:, size // 2 :] = 1
    Image.fromarray(halves).save(root / "segments.png")
    return root


def _plate(name: str, size: int) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    y, x = np.mgrid[:size, :size]
    plate = 120 + 25 * np.sin(x * 0.8 + rng.normal(0, 0.2)) + rng.normal(0, 4, (size, size)) + rng.normal(0, 3)
    top, left = rng.uniform(0.15, 0.85) * size, rng.uniform(0.12, 0.35) * size
    if rng.random() < 0.5:
        radius = rng.uniform(3, 5) * size / 64
        plate[(y - top) ** 2 + (x - left) ** 2 < radius**2] += rng.uniform(40, 80)
    top, left = rng.uniform(0.2, 0.8) * size, rng.uniform(0.62, 0.85) * size
    if "/bad/" in name:
        plate[(y - top) ** 2 + (x - left) ** 2 < (rng.uniform(1.5, 3.5) * size / 64) ** 2] -= rng.uniform(25, 60)
    elif "/bad_unseen" in name:
        plate[(abs(y - top) < size / 64) & (abs(x - left) < rng.uniform(4, 8) * size / 64)] += rng.uniform(25, 60)
    return np.repeat(np.clip(plate, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
