"""Ground-truth regions: 8-connected components of a mask, and what each of their pixels weighs in AUPRO."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

# 3x3 neighbours within an image, none across images: a whole batch is labelled in one call.
_NEIGHBOURS = np.zeros((3, 3, 3), dtype=np.int8)
_NEIGHBOURS[1] = 1


class Regions(NamedTuple):
    """``weight_M``: 1 / (area of its region, pixels) of every defective pixel, in the order of
    ``mask_BHW.nonzero()``; ``count_B``: regions per mask. The weights of one region sum to 1."""

    weight_M: npt.NDArray[np.float64]
    count_B: npt.NDArray[np.int64]


def label_regions(mask_BHW: npt.NDArray[np.bool_]) -> Regions:
    """Labels the 8-connected regions of every mask.

    Args:
        mask_BHW: True where defective. Masks without a defective pixel cost time and have no regions.
    """
    label_BHW, regions = ndimage.label(mask_BHW, structure=_NEIGHBOURS)
    label_M = label_BHW[mask_BHW]
    area_R = np.bincount(label_M, minlength=regions + 1)
    image_R = np.zeros(regions + 1, dtype=np.int64)
    image_R[label_M] = np.nonzero(mask_BHW)[0]
    count_B = np.bincount(image_R[1:], minlength=len(mask_BHW)).astype(np.int64)
    return Regions(1.0 / area_R[label_M].astype(np.float64), count_B)
