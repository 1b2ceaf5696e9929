"""Tiny datasets for tests: written in milliseconds, with defects that any method can find."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

U8 = npt.NDArray[np.uint8]


def write_mvtec(
    root: Path,
    categories: Sequence[str] = ("bottle", "cable"),
    train: int = 4,
    good: int = 2,
    bad: int = 2,
    size: int = 48,
    *,
    defects: Sequence[str] = ("hole", "scratch"),
    masks: bool = True,
    suffix: str = "_mask",
    extension: str = "png",
    seed: int = 0,
) -> Path:
    """Writes a dataset in MVTec layout.

    Every category has its own color and grain; a defect is a rectangle of a shifted color, about a third of
    the image's side long. The same arguments give the same files.

    Args:
        root: created if need be.
        categories: folder names.
        train: training images per category.
        good: normal test images per category.
        bad: defective test images per category, dealt to ``defects`` in turn.
        size: side of the images in pixels, from 8.
        defects: names of the defect folders.
        masks: whether to write ``ground_truth``.
        suffix: between the image's stem and the mask's extension.
        extension: of the images; masks are PNG.
        seed: of the random pixels.

    Returns:
        ``root``.
    """
    for category in categories:
        rng = np.random.default_rng([seed, zlib.crc32(category.encode())])
        color = rng.integers(60, 190, 3)
        folder = root / category
        for part, count in (("train", train), ("test", good)):
            for number in range(count):
                _save(_surface(rng, color, size), folder / part / "good" / f"{number:03}.{extension}")
        for number in range(bad):
            defect, stem = defects[number % len(defects)], f"{number // len(defects):03}"
            image, mask = _spoil(rng, _surface(rng, color, size))
            _save(image, folder / "test" / defect / f"{stem}.{extension}")
            if masks:
                _save(mask, folder / "ground_truth" / defect / f"{stem}{suffix}.png")
    return root


def _surface(rng: np.random.Generator, color: npt.NDArray[np.int64], size: int) -> U8:
    grain = rng.integers(-12, 13, (size, size, 1)) + rng.integers(-6, 7)
    return np.asarray(np.clip(color + grain, 0, 255), np.uint8)


def _spoil(rng: np.random.Generator, image: U8) -> tuple[U8, U8]:
    """The image with a rectangle of another color, and its mask with 0 / 255."""
    size = image.shape[0]
    height, width = rng.integers(size // 4, size // 2, 2)
    top, left = rng.integers(0, size - height), rng.integers(0, size - width)
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + height, left : left + width] = 255
    return np.where(mask[..., None] > 0, image + np.uint8(64), image), mask


def _save(pixels: U8, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
