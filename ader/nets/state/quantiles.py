"""Exact quantiles of more values than memory has room for.

Shapes in names: M kinds of values (maps), Q quantiles, K order statistics (2 of each quantile), N values, H halves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ader.system import dist

#: Values of a float32's upper and lower 16 bits.
HALVES = 2**16


class StreamedQuantiles(nn.Module):
    """Quantiles of non-negative float32 values, in two passes over them and 4 MiB for two kinds and two quantiles.

    The bits of such numbers, read as integers, have the numbers' order. The first pass counts upper halves, which tells
    the upper half of each order statistic that is wanted; the second counts the lower halves below these. Counts are
    added over processes, so the result depends neither on their number nor on the order of values. It is torch's
    linear interpolation, without the limit of 2^24 elements and with exact places. (A sample of the values would draw;
    ``torch.quantile`` would need all of them at once.)

    Interrupted passes start again: ``begin`` precedes each. Between the two everything is in the state dict.

    Args:
        kinds: M, each with quantiles of its own.
        shares: Q shares in [0, 1].

    Attributes:
        value_MQ: the quantiles; 0 before the second pass ended.
    """

    value_MQ: Tensor
    upper_MK: Tensor
    rank_MK: Tensor
    share_Q: Tensor

    def __init__(self, kinds: int, shares: Sequence[float]) -> None:
        super().__init__()
        self.shares = tuple(shares)
        self.register_buffer("value_MQ", torch.zeros(kinds, len(shares)))
        self.register_buffer("upper_MK", torch.zeros(kinds, 2 * len(shares), dtype=torch.int64))
        self.register_buffer("rank_MK", torch.zeros(kinds, 2 * len(shares), dtype=torch.int64))  # below the upper half
        self.register_buffer("share_Q", torch.zeros(len(shares)))  # of the higher order statistic of each quantile
        self._count: Tensor | None = None

    def begin(self) -> None:
        """Forgets what an interrupted pass has counted."""
        self._count = None

    def count_upper(self, value_MN: Tensor) -> None:
        """The first pass takes values, as many of each kind."""
        upper_MN = _bits(value_MN) >> 16
        count_MH = self._counts(len(value_MN), 1)[:, 0]
        count_MH.scatter_add_(1, upper_MN, torch.ones_like(upper_MN))

    def conclude_upper(self) -> None:
        """Ends the first pass, on every process.

        Raises:
            RuntimeError: no process had a value.
        """
        count_MH = _summed(self._counts(len(self.value_MQ), 1))[:, 0]
        total = int(count_MH[0].sum())
        if not total:
            raise RuntimeError("there are no values to take quantiles of")
        places = [share * (total - 1) for share in self.shares]
        low = [int(place) for place in places]
        rank_K = torch.tensor([rank for each in low for rank in (each, min(each + 1, total - 1))])
        rank_MK = rank_K.to(count_MH.device).expand_as(self.rank_MK).contiguous()
        self.upper_MK, self.rank_MK = _found(count_MH[:, None].expand(-1, len(rank_K), -1), rank_MK)
        rest_Q = torch.tensor([place - each for place, each in zip(places, low, strict=True)])
        self.share_Q.copy_(rest_Q)
        self.begin()

    def count_lower(self, value_MN: Tensor) -> None:
        """The second pass takes the same values."""
        bits_MN = _bits(value_MN)
        count_MKH = self._counts(*self.upper_MK.shape)
        inside_MKN = (bits_MN >> 16)[:, None] == self.upper_MK[:, :, None]
        lower_MKN = (bits_MN & (HALVES - 1))[:, None].expand(inside_MKN.shape)
        count_MKH.scatter_add_(2, lower_MKN, inside_MKN.long())

    def conclude_lower(self) -> None:
        """Ends the second pass, on every process: ``value_MQ`` is there."""
        lower_MK, _ = _found(_summed(self._counts(*self.upper_MK.shape)), self.rank_MK)
        bits_MK = (self.upper_MK << 16) | lower_MK
        value_MK = bits_MK.to(torch.int32).view(torch.float32).to(self.value_MQ.dtype)
        self.value_MQ.copy_(torch.lerp(value_MK[:, ::2], value_MK[:, 1::2], self.share_Q))
        self.begin()

    def _counts(self, *shape: int) -> Tensor:
        if self._count is None:
            self._count = torch.zeros(*shape, HALVES, dtype=torch.int64, device=self.value_MQ.device)
        return self._count


def _bits(value_MN: Tensor) -> Tensor:
    """As integers; -0 as 0."""
    return value_MN.float().abs().contiguous().view(torch.int32).long()


def _found(count_MKH: Tensor, rank_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Which half has the value of each rank, counted from 0, and its rank among those in that half."""
    below_MKH = count_MKH.cumsum(2)
    half_MK = (below_MKH <= rank_MK[:, :, None]).sum(2)
    half_MK = half_MK.clamp(max=HALVES - 1)  # a second pass whose values are not quite the first's may run out of them
    before_MKH = below_MKH - count_MKH
    return half_MK, rank_MK - before_MKH.gather(2, half_MK[:, :, None])[:, :, 0]


def _summed(count: Tensor) -> Tensor:
    """Over processes."""
    return dist.gather_rows(count[None], [1] * dist.world()).sum(0)
