"""Geometry of whole batches on the device: each image has its own parameters.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ader.nets.scoring.maps import full


def rotate(image_BCHW: Tensor, degrees_B: Tensor, mode: Literal["nearest", "bilinear"] = "nearest") -> Tensor:
    """Rotates each image counter-clockwise about its center by its own angle; what comes from outside is 0.

    With ``"nearest"`` this is torchvision's and Pillow's rotation, but for pixels that fall between two.
    """
    radians_B = torch.deg2rad(degrees_B.to(image_BCHW.device, torch.float32))
    cos_B, sin_B = radians_B.cos(), radians_B.sin()
    height, width = image_BCHW.shape[2:]
    zero_B = torch.zeros_like(cos_B)
    # from output to input, in coordinates that run from -1 to 1 along both axes whatever their lengths
    rows = [
        torch.stack([cos_B, -sin_B * height / width, zero_B], dim=1),
        torch.stack([sin_B * width / height, cos_B, zero_B], dim=1),
    ]
    grid_BHW2 = F.affine_grid(torch.stack(rows, dim=1), list(image_BCHW.shape), align_corners=False)
    image_BCHW = full(image_BCHW)
    return F.grid_sample(
        image_BCHW, grid_BHW2.to(image_BCHW.dtype), mode=mode, padding_mode="zeros", align_corners=False
    )
