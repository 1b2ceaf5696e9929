"""Statistics of maps inside segments, for whole batches (SegAD, section 3.2 of the paper).

An image's pixels are brought together by segment once, for all of its maps; what follows is done for a segment of all
images and maps at a time, on no more pixels than there are (but for the differences in size between images).

Shapes in names: B images, K maps of each, H height, W width, N = H W pixels, L segments, P pixels of the largest
segment, T the largest values of a segment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

#: What there is of each segment, in this order.
STATISTICS: tuple[Literal["quantile", "skewness", "kurtosis", "mean"], ...] = (
    "quantile",
    "skewness",
    "kurtosis",
    "mean",
)

#: A segment is constant if its standard deviation is below this share of its mean: SciPy's rule for float32.
RESOLUTION = 1e-6


@dataclass(frozen=True)
class Segments:
    """Where the pixels of each segment are.

    Attributes:
        order_BN: pixels by segment, then by place; one row for all images if they have the same segments.
        sizes: of each image's (or of that one row's) segments 0, 1, ..., in pixels. On the host: they are the shapes
            of what is computed.
    """

    order_BN: Tensor
    sizes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, label_BHW: Tensor, count: int | None = None) -> Segments:
        """The segments of label maps (integers from 0), (B, H, W).

        Args:
            label_BHW: one map can stand for all images: (1, H, W).
            count: segments; None: up to the largest label. Pixels with larger labels are in none.
        """
        label_BN = label_BHW.flatten(1)
        order_BN = label_BN.argsort(dim=1, stable=True)
        count = int(label_BN.max()) + 1 if count is None else count
        sizes_BL = torch.stack([(label_BN == number).sum(dim=1) for number in range(count)], dim=1)
        return cls(order_BN, tuple(map(tuple, sizes_BL.tolist())))

    @property
    def count(self) -> int:
        """How many segments."""
        return len(self.sizes[0])


def segment_statistics(map_BKHW: Tensor, segments: Segments, quantile: float) -> Tensor:
    """Quantile, skewness, excess kurtosis and mean of each map in each segment: (B, L, K, 4), float64.

    The quantile is interpolated linearly (``numpy.quantile``), the moments are biased (``scipy.stats.skew``,
    ``kurtosis``). An empty segment has zeros, a constant one skewness and kurtosis 0 (SciPy: NaN).

    Args:
        map_BKHW: any floating-point type.
        segments: of the same images, or one row for all.
        quantile: in [0, 1].
    """
    map_BKN = map_BKHW.flatten(2)
    grouped_BKN = map_BKN.gather(2, segments.order_BN[:, None].expand(map_BKN.shape))
    start_BL = [[sum(sizes[:number]) for number in range(segments.count)] for sizes in segments.sizes]
    found = []
    for number in range(segments.count):
        starts, sizes = [row[number] for row in start_BL], [row[number] for row in segments.sizes]
        found.append(_statistics(*_padded(grouped_BKN, starts, sizes), quantile))
    return torch.stack(found, dim=1)


def _padded(grouped_BKN: Tensor, starts: list[int], sizes: list[int]) -> tuple[Tensor, Tensor | None, list[int]]:
    """One segment's pixels (B, K, P), which of them are real (None: all), and how many."""
    if len(set(starts)) == len(set(sizes)) == 1:
        return grouped_BKN[:, :, starts[0] : starts[0] + sizes[0]], None, sizes[:1]
    device, longest = grouped_BKN.device, max(sizes)
    place_P = torch.arange(longest, device=device)
    real_BP = place_P < torch.tensor(sizes, device=device)[:, None]
    source_BP = (torch.tensor(starts, device=device)[:, None] + place_P).clamp_(max=grouped_BKN.shape[2] - 1)
    value_BKP = grouped_BKN.gather(2, source_BP[:, None].expand(-1, grouped_BKN.shape[1], -1))
    return value_BKP, real_BP[:, None], sizes


def _statistics(value_BKP: Tensor, real_B1P: Tensor | None, sizes: list[int], quantile: float) -> Tensor:
    """(B, K, 4) of one segment."""
    if max(sizes) == 0:
        return value_BKP.new_zeros((*value_BKP.shape[:2], len(STATISTICS)), dtype=torch.float64)
    size_B1 = torch.tensor(sizes, dtype=torch.float64, device=value_BKP.device)[:, None]
    exact_BKP = value_BKP.double()
    if real_B1P is not None:
        exact_BKP = exact_BKP.where(real_B1P, 0)
    mean_BK = exact_BKP.sum(dim=2) / size_B1.clamp(min=1)
    apart_BKP = exact_BKP - mean_BK[:, :, None]
    if real_B1P is not None:
        apart_BKP = apart_BKP.where(real_B1P, 0)
    square_BKP = apart_BKP.square()
    m2_BK, m3_BK, m4_BK = (
        (one * other).sum(dim=2) / size_B1.clamp(min=1)
        for one, other in ((apart_BKP, apart_BKP), (square_BKP, apart_BKP), (square_BKP, square_BKP))
    )
    constant_BK = m2_BK <= (RESOLUTION * mean_BK).square()
    m2_BK = m2_BK.where(~constant_BK, 1)
    skewness_BK = (m3_BK / m2_BK**1.5).where(~constant_BK, 0)
    kurtosis_BK = (m4_BK / m2_BK.square() - 3).where(~constant_BK, 0)
    quantile_BK = _quantile(value_BKP, real_B1P, sizes, quantile)
    statistics_BK4 = torch.stack([quantile_BK, skewness_BK, kurtosis_BK, mean_BK], dim=2)
    return statistics_BK4.where(size_B1[:, :, None] > 0, 0)


def _quantile(value_BKP: Tensor, real_B1P: Tensor | None, sizes: list[int], quantile: float) -> Tensor:
    """(B, K), float64; anything for an empty segment. Only as many of the largest values are sorted as it needs."""
    if real_B1P is not None:
        value_BKP = value_BKP.where(real_B1P, -torch.inf)
    last_B = [max(0, size - 1) for size in sizes]
    place_B = [quantile * last for last in last_B]
    low_B = [math.floor(place) for place in place_B]  # the rank below the quantile, from the smallest value
    count = max(size - low for size, low in zip(sizes, low_B, strict=True))
    top_BKT = value_BKP.topk(max(1, count), dim=2).values.double()
    ends = []
    for above in (0, 1):
        rank_B = [last - min(low + above, last) for low, last in zip(low_B, last_B, strict=True)]
        rank_B11 = torch.tensor(rank_B, device=value_BKP.device)[:, None, None]
        ends.append(top_BKT.gather(2, rank_B11.expand(*top_BKT.shape[:2], 1))[:, :, 0])
    shares = [place - low for place, low in zip(place_B, low_B, strict=True)]
    share_B1 = torch.tensor(shares, dtype=torch.float64, device=value_BKP.device)[:, None]
    return torch.lerp(ends[0], ends[1], share_B1.expand_as(ends[0]))
