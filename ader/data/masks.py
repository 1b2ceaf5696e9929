"""Reading masks: which pixels are defective, at the file's own size or at the evaluation size.

ADer's rule is ``> 0`` (or by the other ``MaskRule`` cut at one half) before the masks are resized and ``> 0.5``
afterwards; ADEval's takes the nearest pixel. A mask is turned by its own orientation tag alone: one that was drawn over
the image as viewers show it has none, and stays as it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from ader.data.image import AGAIN, U8, BadImageError, colors, decode, resize

Interpolation = Literal["bilinear", "nearest"]
#: Which levels of a mask are defective: ``"any"`` above 0 (class ids), ``"half"`` of the file's range (soft edges).
MaskRule = Literal["any", "half"]


@dataclass(frozen=True, slots=True)
class MaskLevels:
    """The levels of a mask as its file has them, upright.

    Attributes:
        values_HW: uint8 or uint16; of colors the brightest channel.
        full: the largest level that the file could hold, 255 or 65535.
        lossy: whether the file is a JPEG, whose levels are not those that were drawn.
    """

    values_HW: npt.NDArray[Any]
    full: int
    lossy: bool

    def least(self, rule: MaskRule) -> int:
        """The smallest level that is defective."""
        return 1 if rule == "any" else self.full // 2 + 1


def read_levels(path: Path) -> MaskLevels:
    """Decodes a mask at its own size.

    Alpha is ignored (an opaque alpha would mark the whole image); palette masks are judged by their colors.

    Raises:
        BadImageError: as for ``read_image``.
    """
    image, _ = decode(path)
    lossy = image.format in ("JPEG", "MPO")
    if image.mode.startswith("I"):  # 16-bit masks may hold small class ids: their high byte would be 0
        return MaskLevels(np.asarray(image).astype(np.uint16), 65535, lossy)
    brightest = image if image.mode == "L" else reduce(ImageChops.lighter, colors(image, path).split())
    return MaskLevels(np.asarray(brightest), 255, lossy)


def read_mask(path: Path, rule: MaskRule = "any") -> Image.Image:
    """Decodes a mask to mode L at its own size: 255 where it is defective by ``rule``, else 0; see ``read_levels``.

    Raises:
        BadImageError: as for ``read_image``.
    """
    levels = read_levels(path)
    return Image.fromarray((levels.values_HW >= levels.least(rule)).astype(np.uint8) * np.uint8(255))


def read_masks(paths: Sequence[Path], rule: MaskRule = "any") -> Image.Image:
    """The union of one or more masks of an image (MVTec LOCO has one for each of its defects), as ``read_mask``.

    Raises:
        BadImageError: as for ``read_image``, or the masks differ in size.
    """
    union = read_mask(paths[0], rule)
    for path in paths[1:]:
        mask = read_mask(path, rule)
        if mask.size != union.size:
            raise BadImageError(path, f"is {_by(mask)} pixels and {paths[0].name} {_by(union)}: {AGAIN}")
        union = ImageChops.lighter(union, mask)
    return union


def load_mask(
    paths: Sequence[Path],
    size: int | tuple[int, int],
    interpolation: Interpolation = "bilinear",
    rule: MaskRule = "any",
) -> U8:
    """The mask at evaluation size: uint8 (height, width), 1 = defective.

    Args:
        paths: files whose union is the mask; without any it is empty.
        size: (height, width), or the side of a square.
        interpolation: ``"bilinear"``: cut above one half; ``"nearest"``: see ``pick``.
        rule: which levels of the files are defective, before anything is resized.

    Raises:
        BadImageError: as for ``read_image``.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not paths:
        return np.zeros((height, width), np.uint8)
    if interpolation == "nearest":
        return pick(own_mask(paths, rule), height, width)
    # 128 / 255 is the first 8-bit value above ADer's 0.5
    return (np.asarray(resize(read_masks(paths, rule), height, width)) >= 128).astype(np.uint8)


def own_mask(paths: Sequence[Path], rule: MaskRule = "any") -> U8:
    """The mask as it is in its files: uint8 (height, width), 1 = defective.

    Raises:
        BadImageError: as for ``read_masks``.
    """
    return (np.asarray(read_masks(paths, rule)) > 0).astype(np.uint8)


def pick(values_HW: U8, height: int, width: int) -> U8:
    """Resize to the nearest pixel as OpenCV and ADEval count it: output pixel i takes input pixel floor(i * in / out).

    Pillow's ``NEAREST`` counts from the pixels' centers instead.
    """
    rows = np.arange(height) * values_HW.shape[0] // height
    columns = np.arange(width) * values_HW.shape[1] // width
    picked: U8 = values_HW[rows[:, None], columns]
    return picked


def _by(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
