"""VisA, raw: the lists of three splits with CRLF, stems that normal and anomalous images share, masks of class ids.

Also what all layouts draw with: ``photo`` and ``blot``.
"""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ader.datasets.visa import CATEGORIES

#: Objects whose normal images have names of four digits; those of the others are named like anomalous ones.
FOUR_DIGITS = {"candle", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3", "pcb4"}


def photo(path: Path, width: int = 24, height: int = 20, mode: str = "RGB") -> None:
    """An image of random pixels, other ones for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(path.as_posix().encode())).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def blot(path: Path, width: int = 24, height: int = 20, value: int = 255) -> None:
    """A mask: a square of one value on zeros. With value 0 it marks nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((height, width), np.uint8)
    mask[4:14, 4:14] = value
    Image.fromarray(mask).save(path)


def write(root: Path) -> Path:
    """Three normal and two anomalous images of each object."""
    rows: dict[str, list[str]] = {"1cls": [], "2cls_fewshot": [], "2cls_highshot": []}
    for place, category in enumerate(CATEGORIES):
        data = root / category / "Data"
        for number in range(3):
            name = f"{number:0{4 if category in FOUR_DIGITS else 3}}.JPG"
            photo(data / "Images" / "Normal" / name)
            for split, listed in rows.items():
                part = "train" if number >= (2 if split == "2cls_fewshot" else 1) else "test"
                listed.append(f"{category},{part},normal,{category}/Data/Images/Normal/{name},")
        for number in range(2):
            photo(data / "Images" / "Anomaly" / f"{number:03}.JPG")
            blot(data / "Masks" / "Anomaly" / f"{number:03}.png", value=1 + (place + number) % 9)
            for split, listed in rows.items():
                part = "train" if number and split != "1cls" else "test"
                paths = f"{category}/Data/Images/Anomaly/{number:03}.JPG,{category}/Data/Masks/Anomaly/{number:03}.png"
                listed.append(f"{category},{part},anomaly,{paths}")
        (root / category / "image_anno.csv").write_text(
            f'image,label,mask\n{category}/Data/Images/Anomaly/000.JPG,"bent,scratch",x\n'
        )
        (data / "Images" / "Normal" / "._000.JPG").touch()
    (root / "split_csv").mkdir()
    for split, listed in rows.items():
        random.Random(split).shuffle(listed)
        lines = ["object,split,label,image,mask", *listed]
        (root / "split_csv" / f"{split}.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    (root / "LICENSE-DATASET").touch()
    return root
