"""AeBAD-V: training folders with a suffix, a fourth video that is not tested; beside it AeBAD-S."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    parts = [f"train/good/video{number}_train" for number in (1, 2, 3, 4)]
    parts += [f"test/video{number}/{part}" for number in (1, 2, 3) for part in ("good", "anomaly")]
    for shade, part in enumerate(parts):
        folder = root / "AeBAD_V" / part
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 18), (shade * 9, number * 9, 99)).save(folder / f"frame_{number:05}.jpg")
    (root / "AeBAD_S/test/good/same").mkdir(parents=True)
    return root
