"""DRAEM's ten operations on textures, for whole batches; upstream (VitjanZ/DRAEM at 2dbf673, MIT) has imgaug's.

Differences from upstream:
- brightness changes the luma of YCrCb; imgaug draws one of six color spaces, in two of which that is the same.
- hue and saturation are not rounded to OpenCV's 8 bits (2 degrees of hue) in between.
- rotations interpolate without OpenCV's rounding of places to 1/32 of a pixel.

An operation takes levels of 0..255 (B, 3, H, W) and a seed for each texture on their device, and returns levels, which
may be fractions or out of range.

Shapes in names: B textures, C channels, H height, W width, N pixels, L levels, K operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import equalize

from ader.nets.synthesis.draws import integers, uniform, uniform_between
from ader.nets.synthesis.geometry import rotate


def augmented(texture_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Three of DRAEM's ten operations on each texture, distinct and in random order.

    Values are whole numbers of 0..255 between them, as in upstream's 8-bit images.

    Args:
        texture_BCHW: RGB in [0, 1].
        seed_B: one for each texture, on the CPU.
    """
    device = texture_BCHW.device
    level_BCHW = (texture_BCHW * 255).round()
    order_BK = uniform(seed_B, "texture/operations", len(OPERATIONS)).argsort(dim=1)
    for turn in range(3):
        for number, operation in enumerate(OPERATIONS):
            if len(place_B := (order_BK[:, turn] == number).nonzero()[:, 0]):
                there_B = place_B.to(device, non_blocking=True)
                changed_BCHW = operation(level_BCHW[there_B], seed_B[place_B].to(device, non_blocking=True))
                level_BCHW[there_B] = changed_BCHW.clamp_(0, 255).round_()
    return level_BCHW / 255


def gamma(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Gamma contrast, each channel its own."""
    return 255 * (level_BCHW / 255) ** uniform_between(seed_B, "texture/gamma", 0.5, 2.0, 3, 1, 1)


def brightness(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Luma times 0.8 to 1.2 and plus -30 to 30, in random order; chroma stays."""
    factor_B111 = uniform_between(seed_B, "texture/brightness factor", 0.8, 1.2, 1, 1, 1)
    shift_B111 = integers(seed_B, "texture/brightness shift", 61, 1, 1, 1) - 30
    first_B111 = uniform(seed_B, "texture/brightness order", 1, 1, 1) < 0.5
    luma_B1HW = 0.299 * level_BCHW[:, :1] + 0.587 * level_BCHW[:, 1:2] + 0.114 * level_BCHW[:, 2:]
    scaled_B1HW = (luma_B1HW * factor_B111).clamp(0, 255) + shift_B111
    shifted_B1HW = (luma_B1HW + shift_B111).clamp(0, 255) * factor_B111
    return level_BCHW + torch.where(first_B111, scaled_B1HW, shifted_B1HW).clamp(0, 255) - luma_B1HW


def sharpness(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Pillow's: from smoothed (0) over unchanged (1) to sharpened (2); the outermost pixels stay."""
    factor_B111 = uniform_between(seed_B, "texture/sharpness", 0.0, 2.0, 1, 1, 1)
    inner_BCHW = level_BCHW[:, :, 1:-1, 1:-1]
    smooth_BCHW = (9 * F.avg_pool2d(level_BCHW, 3, stride=1) + 4 * inner_BCHW) / 13
    result_BCHW = level_BCHW.clone()
    result_BCHW[:, :, 1:-1, 1:-1] = torch.lerp(smooth_BCHW.round(), inner_BCHW, factor_B111)
    return result_BCHW


def hue_and_saturation(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Hue and saturation (of HSV) plus -50 to 50 of 255; 255 is the whole circle of hues."""
    shift_B2 = integers(seed_B, "texture/hue and saturation", 101, 2)[:, :, None, None] - 50
    high_BHW, low_BHW = level_BCHW.amax(dim=1), level_BCHW.amin(dim=1)
    sixth_BHW = _hue(level_BCHW, high_BHW, low_BHW) + 6 * shift_B2[:, 0] / 255
    saturation_BHW = (high_BHW - low_BHW) / high_BHW.clamp(min=1) + shift_B2[:, 1] / 255
    chroma_B1HW = (high_BHW * saturation_BHW.clamp(0, 1))[:, None]
    offset_3 = torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1)
    ramp_BCHW = (offset_3.to(level_BCHW.device, non_blocking=True) + sixth_BHW[:, None]) % 6
    return high_BHW[:, None] - chroma_B1HW * torch.minimum(ramp_BCHW, 4 - ramp_BCHW).clamp(0, 1)


def _hue(level_BCHW: Tensor, high_BHW: Tensor, low_BHW: Tensor) -> Tensor:
    """In sixths of the circle, within -1 to 5; 0 for gray."""
    red, green, blue = level_BCHW.unbind(1)
    range_BHW = (high_BHW - low_BHW).clamp(min=1)
    third_BHW = torch.where(high_BHW == green, 2 + (blue - red) / range_BHW, 4 + (red - green) / range_BHW)
    return torch.where(high_BHW == red, (green - blue) / range_BHW, third_BHW)


def solarize(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Half of the textures: levels from a threshold in 32 to 128 on are inverted."""
    threshold_B111 = uniform_between(seed_B, "texture/solarize", 32, 128, 1, 1, 1)
    inverted_BCHW = (level_BCHW >= threshold_B111) & (uniform(seed_B, "texture/solarize at all", 1, 1, 1) < 0.5)
    return torch.where(inverted_BCHW, 255 - level_BCHW, level_BCHW)


def posterize(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """1 to 8 bits are kept."""
    bits_B111 = 1 + integers(seed_B, "texture/posterize", 8, 1, 1, 1)
    step_B111 = (torch.ones_like(bits_B111) << (8 - bits_B111)).float()
    return (level_BCHW / step_B111).floor() * step_B111


def invert(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    return 255 - level_BCHW


def autocontrast(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Pillow's: each channel is stretched to 0..255; the darkest and the brightest 0 to 20 % of its pixels saturate."""
    pixels = level_BCHW[0, 0].numel()
    cut_B11 = integers(seed_B, "texture/autocontrast", 21, 1, 1) * pixels // 100
    level_BCN = level_BCHW.flatten(2).long()
    count_BCL = level_BCN.new_zeros(*level_BCN.shape[:2], 256).scatter_add_(2, level_BCN, torch.ones_like(level_BCN))
    below_BCL = count_BCL.cumsum(2)
    low_BC11 = (below_BCL <= cut_B11).sum(2)[..., None, None]
    high_BC11 = (below_BCL < pixels - cut_B11).sum(2)[..., None, None]
    stretched_BCHW = ((level_BCHW - low_BC11) * 255 / (high_BC11 - low_BC11).clamp(min=1)).floor()
    return torch.where(high_BC11 > low_BC11, stretched_BCHW, level_BCHW)


def equalized(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    equal_BCHW: Tensor = equalize(level_BCHW.to(torch.uint8))
    return equal_BCHW.float()


def rotated(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    return rotate(level_BCHW, uniform_between(seed_B, "texture/degrees", -45, 45), mode="bilinear")


#: DRAEM's ten operations: (levels of 0..255, seeds on their device) -> levels, which may be fractions or out of range.
OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    gamma,
    brightness,
    sharpness,
    hue_and_saturation,
    solarize,
    posterize,
    invert,
    autocontrast,
    equalized,
    rotated,
)
