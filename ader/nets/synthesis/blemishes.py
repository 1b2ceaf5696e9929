"""Generated defects as SegAD's one-class protocol names them: a segment or a part of one is blurred, or there is a thin
or small rectangle of some gray (section 3.3 of the paper, which gives no numbers; neither does its code).

Shapes in names: B images, C channels, H height, W width, N = H W pixels, L segments, T taps of a filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import Tensor

from ader.config.ranges import Probability, Share, Sigma
from ader.nets.scoring.maps import full_precision
from ader.nets.synthesis.draws import uniform


@dataclass(frozen=True)
class BlemishOptions:
    """How often there is what, and in which ranges numbers are drawn (uniformly). Sides are shares of the image's.

    Attributes:
        copies: defective ones of every normal image.
        blurred: share of defects that are blurs; the others are rectangles.
        partial: share of the blurs that are of a part of a segment only.
        sigma: of the blur, in pixels.
        part: sides of the rectangle that cuts such a part out, about some pixel of the segment.
        thin: share of the rectangles that are thin; the others are small.
        length, thickness: sides of a thin one.
        spot: sides of a small one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    copies: Annotated[int, Field(ge=1, le=1000)] = 1
    blurred: Probability = 0.5
    partial: Probability = 0.5
    sigma: tuple[Sigma, Sigma] = (1.0, 4.0)
    part: tuple[Share, Share] = (0.1, 0.5)
    thin: Probability = 0.5
    length: tuple[Share, Share] = (0.05, 0.4)
    thickness: tuple[Share, Share] = (0.004, 0.02)
    spot: tuple[Share, Share] = (0.01, 0.06)


def blemished(
    image_BCHW: Tensor, label_BHW: Tensor, seed_B: Tensor, options: BlemishOptions, purpose: str = ""
) -> Tensor:
    """Every image with one defect.

    Args:
        image_BCHW: RGB in [0, 1], float32.
        label_BHW: segments, from 0; (1, H, W) stands for all images.
        seed_B: one seed for each image; it and ``purpose`` alone decide the defect.
        options: of the draws.
        purpose: other ones give other defects.
    """
    draw = _Draws(seed_B, purpose, image_BCHW.device)
    blurred_B = draw.uniform("kind") < options.blurred
    with full_precision(image_BCHW.device):
        soft_BCHW = _blur(image_BCHW.float(), draw.within("sigma", options.sigma), options.sigma[1])
    region_B1HW = _region(label_BHW.expand(len(image_BCHW), -1, -1), draw, options)[:, None]
    shape_B1HW = _rectangle(image_BCHW.shape[2:], draw, options)[:, None]
    gray_B111 = draw.uniform("grey")[:, None, None, None]
    painted_BCHW = torch.where(shape_B1HW, gray_B111, image_BCHW)
    return torch.where(blurred_B[:, None, None, None], torch.where(region_B1HW, soft_BCHW, image_BCHW), painted_BCHW)


class _Draws:
    """Random numbers of a batch on its device."""

    def __init__(self, seed_B: Tensor, purpose: str, device: torch.device) -> None:
        self.seed_B, self.purpose, self.device = seed_B, purpose, device

    def uniform(self, what: str) -> Tensor:
        """(B,) in [0, 1)."""
        return uniform(self.seed_B, f"blemish/{self.purpose}/{what}").to(self.device)

    def within(self, what: str, bounds: tuple[float, float]) -> Tensor:
        """(B,) between the bounds."""
        return bounds[0] + (bounds[1] - bounds[0]) * self.uniform(what)


def _blur(image_BCHW: Tensor, sigma_B: Tensor, largest: float) -> Tensor:
    """Gaussian blur of every image by its own sigma, edges repeated."""
    count, channels, height, width = image_BCHW.shape
    radius = min(math.ceil(3 * largest), height - 1, width - 1)
    offset_T = torch.arange(-radius, radius + 1, device=image_BCHW.device, dtype=torch.float32)
    tap_BT = torch.exp(-0.5 * (offset_T / sigma_B[:, None]).square())
    tap_BT = (tap_BT / tap_BT.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat_1CHW = F.pad(image_BCHW.reshape(1, -1, height, width), [radius] * 4, mode="replicate")
    flat_1CHW = F.conv2d(flat_1CHW, tap_BT[:, None, :, None], groups=count * channels)
    return F.conv2d(flat_1CHW, tap_BT[:, None, None, :], groups=count * channels).view_as(image_BCHW)


def _region(label_BHW: Tensor, draw: _Draws, options: BlemishOptions) -> Tensor:
    """(B, H, W), true in one of an image's segments (each that it has as likely), or in a rectangle's part of it."""
    height, width = label_BHW.shape[1:]
    label_BN = label_BHW.flatten(1)
    there_BL = F.one_hot(label_BN).any(dim=1)
    rank_B1 = (draw.uniform("segment") * there_BL.sum(dim=1)).long()[:, None]  # of the chosen one among these
    chosen_B = ((there_BL.cumsum(dim=1) == rank_B1 + 1) & there_BL).long().argmax(dim=1)
    inside_BN = label_BN == chosen_B[:, None]
    count_BN = inside_BN.cumsum(dim=1)
    wanted_B1 = (draw.uniform("pixel") * count_BN[:, -1]).long()[:, None] + 1
    place_B = torch.searchsorted(count_BN, wanted_B1)[:, 0]
    tall_B, wide_B = draw.within("part height", options.part) * height, draw.within("part width", options.part) * width
    row_H, column_W = (torch.arange(side, device=label_BHW.device) for side in (height, width))
    near_BH = (row_H - (place_B // width)[:, None]).abs() <= tall_B[:, None] / 2
    near_BW = (column_W - (place_B % width)[:, None]).abs() <= wide_B[:, None] / 2
    whole_B11 = (draw.uniform("whole") >= options.partial)[:, None, None]
    return inside_BN.view_as(label_BHW) & (whole_B11 | (near_BH[:, :, None] & near_BW[:, None, :]))


def _rectangle(size: torch.Size, draw: _Draws, options: BlemishOptions) -> Tensor:
    """(B, H, W), true in a thin or small rectangle that lies in the image and is at least a pixel wide."""
    thin_B, upright_B = draw.uniform("shape") < options.thin, draw.uniform("upright") < 0.5
    length_B, thickness_B = draw.within("length", options.length), draw.within("thickness", options.thickness)
    spot_2B = [draw.within(f"spot {way}", options.spot) for way in ("height", "width")]
    tall_B = torch.where(thin_B, torch.where(upright_B, length_B, thickness_B), spot_2B[0])
    wide_B = torch.where(thin_B, torch.where(upright_B, thickness_B, length_B), spot_2B[1])
    ways = []
    for side, share_B, name in ((size[0], tall_B, "top"), (size[1], wide_B, "left")):
        long_B = (share_B * side).round().clamp(min=1)
        start_B = (draw.uniform(name) * (side - long_B + 1)).floor()
        place_S = torch.arange(side, device=draw.device)
        ways.append((place_S >= start_B[:, None]) & (place_S < (start_B + long_B)[:, None]))
    return ways[0][:, :, None] & ways[1][:, None, :]
