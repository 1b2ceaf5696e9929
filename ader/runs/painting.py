"""Anomaly maps as pictures, at the image's own size.

A map is painted with one scale for all images of a category: what is dark in one picture is as normal as what is dark
in another. The colors are those of galleries (``ader.runs.pictures``).

Shapes in names: H height, W width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_erosion

from ader.runs import pictures
from ader.runs.pictures import F32, OUTLINE, U8

#: How much of the picture the hottest color covers.
COVER = 0.75


def at_own_size(map_HW: F32, size: tuple[int, int]) -> F32:
    """The map interpolated bilinearly to an image's width and height."""
    if size == map_HW.shape[::-1]:
        return map_HW
    return np.asarray(Image.fromarray(map_HW, mode="F").resize(size, Image.Resampling.BILINEAR))


def heat(map_HW: F32, scale: tuple[float, float]) -> U8:
    """The map in colors (H, W, 3).

    Args:
        map_HW: any range.
        scale: the values of the darkest and the brightest color; beyond them colors stay the same.
    """
    return pictures.heat(map_HW, *_proper(scale))


def overlay(image_HW3: U8, map_HW: F32, scale: tuple[float, float], mask_HW: npt.NDArray[np.bool_] | None) -> U8:
    """The map's colors over the image, the more of them the hotter, with an outline around the mask, (H, W, 3)."""
    cover_HW1 = COVER * np.square(_share(map_HW, scale))[..., None]  # what is normal must stay visible
    mixed = image_HW3 * (1 - cover_HW1) + heat(map_HW, scale) * cover_HW1
    painted = (mixed + 0.5).astype(np.uint8)
    if mask_HW is not None:
        width = max(1, round(min(mask_HW.shape) / 200))
        painted[mask_HW & ~binary_erosion(mask_HW, iterations=width, border_value=1)] = OUTLINE
    return painted


def _share(map_HW: F32, scale: tuple[float, float]) -> F32:
    """Values as shares of the scale, in [0, 1]."""
    low, high = _proper(scale)
    share_HW: F32 = np.clip((map_HW.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)
    return share_HW


def _proper(scale: tuple[float, float]) -> tuple[float, float]:
    """A scale with some width, also of a category whose maps are all the same."""
    low, high = scale
    return low, max(high, low + max(1e-30, 1e-9 * abs(low)))
