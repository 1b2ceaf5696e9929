"""Pictures of a test image: the ground truth's outline on it, and its anomaly map over it.

Letters: H rows, W columns (pixels); 3 is RGB.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_dilation

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

#: Light from dark in every kind of color blindness, and rare in photographs; its dark rim stands out on white.
OUTLINE, RIM = (0, 255, 255), (0, 0, 0)
#: Share of the map's color where it lies over the image.
OPACITY = 0.6
#: Pixels between two panels.
GAP = 2
#: Of WebP: at this size as good to look at as 90, at less than half the bytes.
QUALITY = 60


@cache
def colors() -> U8:
    """matplotlib's inferno, (256, 3): perceptually uniform, and in order for the color-blind and in gray."""
    from matplotlib import colormaps  # not needed by who makes no pictures

    table: U8 = (colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return table


def heat(map_HW: F32, low: float, high: float) -> U8:
    """The map in colors, (H, W, 3): the first of them up to ``low``, the last from ``high`` on, and where it is NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        share_HW = np.clip((map_HW.astype(np.float64) - low) / (high - low), 0, 1)
    return colors()[np.nan_to_num(share_HW * 255, nan=255).astype(np.uint8)]


def overlay(image_HW3: U8, map_HW: F32, low: float, high: float) -> U8:
    """The map's colors over the image in gray, so that every hue is the map's."""
    gray_HW1 = (image_HW3 @ np.array([0.299, 0.587, 0.114]))[..., None]
    mixed: U8 = (OPACITY * heat(map_HW, low, high) + (1 - OPACITY) * gray_HW1).round().astype(np.uint8)
    return mixed


def outlined(image_HW3: U8, mask_HW: npt.NDArray[np.bool_]) -> U8:
    """The image with a line around what the mask marks; the line lies outside, so that what it marks stays to be seen.

    Args:
        image_HW3: is left as it is.
        mask_HW: True is defective.
    """
    drawn = image_HW3.copy()
    line_HW = binary_dilation(mask_HW, iterations=1) & ~mask_HW
    drawn[binary_dilation(mask_HW, iterations=2) & ~mask_HW] = RIM
    drawn[line_HW] = OUTLINE
    return drawn


def side_by_side(panels: Sequence[U8]) -> U8:
    """Panels of one height in a row."""
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    row = [part for panel in panels for part in (gap, panel)][1:]
    return np.concatenate(row, axis=1)


def webp(image_HW3: U8) -> bytes:
    """The bytes of a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()
