"""Perlin noise for whole batches, each image's own: the shapes of DRAEM's anomalies.

Shapes in names: B images, H height, W width, S pixels of a side, G corners of a noise grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ader.nets.synthesis.draws import integers, uniform


def perlin(seed_B: Tensor, purpose: str, size: int, device: torch.device, scales: tuple[int, int] = (0, 5)) -> Tensor:
    """Perlin noise (B, size, size), about [-1, 1], float32: an image's grid has 2^a x 2^b cells of random gradients.

    DRAEM's: quintic fade, amplitude sqrt(2), a and b uniform in ``scales`` (both ends included). A pixel's place in the
    grid is its index times the cells over the size, so that cells need not be whole numbers of pixels; where they are,
    this is upstream's noise.

    Args:
        seed_B: one seed for each image.
        purpose: noises for different purposes are independent.
        size: pixels of both sides.
        device: of the result.
        scales: smallest and largest exponent.
    """
    seed_B = seed_B.to(device, non_blocking=True)
    exponent_B2 = scales[0] + integers(seed_B, f"{purpose}/scales", scales[1] - scales[0] + 1, 2)
    cells_B2 = torch.ones_like(exponent_B2) << exponent_B2
    corners = 2 ** scales[1] + 1
    angle_BG = 2 * math.pi * uniform(seed_B, f"{purpose}/angles", corners, corners).flatten(1)
    down_BG, across_BG = angle_BG.cos(), angle_BG.sin()
    place_B2S = torch.arange(size, device=device) * cells_B2[:, :, None]  # in pixels times cells: exact
    row_BS, column_BS = (place_B2S // size).unbind(1)
    y_BS, x_BS = (place_B2S % size / size).unbind(1)
    y_BHW, x_BHW = y_BS[:, :, None].expand(-1, -1, size), x_BS[:, None].expand(-1, size, -1)

    def slope(down: int, right: int) -> Tensor:
        """The gradient at a corner of each pixel's cell, times the way from that corner to the pixel."""
        corner_BG = ((row_BS + down)[:, :, None] * corners + (column_BS + right)[:, None]).flatten(1)
        gradient_y, gradient_x = (table_BG.gather(1, corner_BG).view_as(y_BHW) for table_BG in (down_BG, across_BG))
        return gradient_y * (y_BHW - down) + gradient_x * (x_BHW - right)

    fade_y, fade_x = (t * t * t * (t * (t * 6 - 15) + 10) for t in (y_BHW, x_BHW))
    left_BHW, right_BHW = (torch.lerp(slope(0, side), slope(1, side), fade_y) for side in (0, 1))
    return math.sqrt(2) * torch.lerp(left_BHW, right_BHW, fade_x)
