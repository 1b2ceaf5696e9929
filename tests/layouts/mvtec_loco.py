"""MVTec LOCO AD: a folder of masks for each anomalous image, with values other than 255, one of them without any 0."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from PIL import Image

from ader.datasets.mvtec_loco import CATEGORIES

SIZE = (24, 16)  # width, height
#: Masks of each image: value, and box (left, top, right, bottom) of the pixels that have it.
MASKS = {
    "logical_anomalies/000": [(255, (0, 0, 4, 4)), (248, (10, 8, 24, 16))],
    "logical_anomalies/001": [(251, (0, 0, 24, 16))],
    "structural_anomalies/000": [(1, (2, 3, 12, 9))],
}


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    for category in CATEGORIES:
        for split in ("train", "validation", "test"):
            write_images(root / category / split / "good", 2)
        write_images(root / category / "test/logical_anomalies", 2)
        write_images(root / category / "test/structural_anomalies", 1)
        for name, masks in MASKS.items():
            folder = root / category / "ground_truth" / name
            folder.mkdir(parents=True)
            for number, (value, box) in enumerate(masks):
                mask = Image.new("L", SIZE)
                mask.paste(value, box)
                mask.save(folder / f"{number:03}.png")
        config = [{"defect_name": "x", "pixel_value": 255, "saturation_threshold": 1.0, "relative_saturation": True}]
        (root / category / "defects_config.json").write_text(json.dumps(config))
    (root / "license.txt").touch()
    (root / "readme.txt").touch()
    return root


def write_images(folder: Path, count: int) -> None:
    """Images 000.png, 001.png ..., no two of one color."""
    folder.mkdir(parents=True)
    for number in range(count):
        mark = zlib.crc32(f"{'/'.join(folder.parts[-3:])}/{number}".encode())
        Image.new("RGB", SIZE, (mark & 255, mark >> 8 & 255, mark >> 16 & 255)).save(folder / f"{number:03}.png")
