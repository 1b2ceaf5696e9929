"""Ground-truth regions: 8-connected components of a mask, and what each of their pixels weighs in AUPRO."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ader.metrics import kernels

# 3x3 neighbors within an image, none across images: a whole batch is labeled in one call.
_NEIGHBOURS = np.zeros((3, 3, 3), dtype=np.int8)
_NEIGHBOURS[1] = 1


class Regions(NamedTuple):
    """``position_M``: flat positions of the defective pixels, ascending; ``weight_M``: 1 / (area of its region,
    pixels) of each; ``count_B``: regions per mask; ``size_B``: defective pixels per mask. The weights of one region
    sum to 1."""

    position_M: npt.NDArray[np.int64]
    weight_M: npt.NDArray[np.float64]
    count_B: npt.NDArray[np.int64]
    size_B: npt.NDArray[np.int64]


def label_regions(mask_BHW: npt.NDArray[np.uint8], marked_B: npt.NDArray[np.bool_]) -> Regions:
    """Labels the 8-connected regions of every mask.

    Args:
        mask_BHW: nonzero where defective.
        marked_B: which masks have a defective pixel: the others are not looked at.
    """
    compiled = kernels.compiled("cpu")
    if compiled is None:
        return label_with_scipy(mask_BHW, marked_B)
    return Regions(*compiled.regions(mask_BHW, marked_B))


def label_with_scipy(mask_BHW: npt.NDArray[np.uint8], marked_B: npt.NDArray[np.bool_]) -> Regions:
    """The same without a compiler."""
    image_I = np.flatnonzero(marked_B)
    mask_IHW = mask_BHW[image_I] != 0
    label_IHW, regions = ndimage.label(mask_IHW, structure=_NEIGHBOURS)
    within_M = np.flatnonzero(mask_IHW)
    label_M = label_IHW.reshape(-1)[within_M]
    area_R = np.bincount(label_M, minlength=regions + 1)
    pixels = mask_BHW[0].size if len(mask_BHW) else 1
    owner_M = image_I[within_M // pixels]
    image_R = np.zeros(regions + 1, dtype=np.int64)
    image_R[label_M] = owner_M
    count_B = np.bincount(image_R[1:], minlength=len(mask_BHW)).astype(np.int64)
    size_B = np.bincount(owner_M, minlength=len(mask_BHW)).astype(np.int64)
    return Regions(within_M % pixels + owner_M * pixels, 1.0 / area_R[label_M].astype(np.float64), count_B, size_B)
