"""From features to anomaly maps: what the reconstruction and embedding methods share.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available

#: What stands beyond a map's edge, as scipy names it: ``reflect`` repeats the edge's own pixels first (d c b a | a b c
#: d), ``mirror`` does not (d c b | a b c d; torch calls that one "reflect").
Border = Literal["reflect", "mirror"]


class GaussianBlur(nn.Module):
    """Gaussian smoothing of maps, equal to ``scipy.ndimage.gaussian_filter`` (cut at 4 sigma).

    One-dimensional smoothing of n pixels is a fixed n x n matrix, so a map is smoothed by two matrix products;
    the matrix is scipy's own filter applied to the identity, which carries its border rule along.

    Args:
        sigma: standard deviation in pixels.
        border: what stands beyond the edge.
    """

    def __init__(self, sigma: float, border: Border = "reflect") -> None:
        super().__init__()
        self.sigma, self.border = sigma, border
        self._matrices: dict[tuple[int, torch.device], Tensor] = {}

    def forward(self, map_BHW: Tensor) -> Tensor:
        """Smoothed maps, same shape, float32."""
        map_BHW = map_BHW.float()
        down_HH = self._matrix(map_BHW.shape[1], map_BHW.device)
        across_WW = self._matrix(map_BHW.shape[2], map_BHW.device)
        with full_precision(map_BHW.device):
            return down_HH @ map_BHW @ across_WW.T

    def _matrix(self, size: int, device: torch.device) -> Tensor:
        key = (size, device)
        if key not in self._matrices:
            smoothed = gaussian_filter1d(np.eye(size), self.sigma, axis=0, mode=self.border)
            self._matrices[key] = torch.from_numpy(smoothed).to(device, torch.float32)
        return self._matrices[key]


def full(tensor: Tensor) -> Tensor:
    """At least float32: sums over up to a million half-precision numbers would lose what they measure."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Switches autocast off, where it is on. Not else: the meta device, on which costs are counted, has none, and an
    exported program that switches it cannot be read back by torch 2.12."""
    if is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def upsample(
    map_BHW: Tensor,
    size: Sequence[int],
    align_corners: bool,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Tensor:
    """Interpolation of maps to (H, W); ``align_corners`` is of the bilinear one."""
    corners = align_corners if mode == "bilinear" else None
    maps = F.interpolate(map_BHW[:, None], size=tuple(size), mode=mode, align_corners=corners)
    return maps[:, 0]


def flat_cosine_loss(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Sum over scales of the mean over images of 1 - cos, each feature map (C_k, H_k, W_k) taken as one vector.

    What the codes of RD4AD and ADer compute; the papers' equations have the cosine of each pixel.
    """
    losses = [
        (1 - F.cosine_similarity(full(a).flatten(1), full(b).flatten(1), dim=1)).mean()
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(losses).sum()


def cosine_distance_map(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    size: Sequence[int],
    combine: Literal["sum", "product"] = "sum",
) -> Tensor:
    """Sum (or product) over scales of 1 - cos between two feature pyramids, per pixel, interpolated to (H, W).

    Args:
        first, second: features (B, C_k, H_k, W_k) of each scale.
        size: height and width of the result.
        combine: how the scales make one map.

    Returns:
        map_BHW in [0, 2 * scales], or for products [0, 2 ** scales], float32. Interpolation aligns corners, as in
        RD4AD and ADer.
    """
    distances = (1 - F.cosine_similarity(full(a), full(b), dim=1) for a, b in zip(first, second, strict=True))
    maps = torch.stack([upsample(distance_BHW, size, align_corners=True) for distance_BHW in distances])
    return maps.sum(dim=0) if combine == "sum" else maps.prod(dim=0)


def pooled_maximum(map_BHW: Tensor, window: int, padding: int = 0) -> Tensor:
    """Image scores (B,): the largest mean over a ``window`` x ``window`` square of the map (stride 1).

    Args:
        map_BHW: anomaly maps; a window larger than the map is cut to it.
        window: pixels; 1 is the plain maximum.
        padding: zeros around the map, which count as pixels of the squares that they are in.
    """
    side = min(window, map_BHW.shape[1] + 2 * padding, map_BHW.shape[2] + 2 * padding)
    pooled_B1HW = F.avg_pool2d(map_BHW[:, None], side, stride=1, padding=min(padding, side // 2))
    return pooled_B1HW.amax(dim=(1, 2, 3))
