"""The histogram state: bins that follow the float format, so that no score range is needed in advance.

The bits of a float32, read as an integer with the sign applied, grow with the value; the top bits of that key
are a bin number. Bins are log-spaced with relative width 2^-m for m kept mantissa bits, the same on every
machine, so histograms of batches, processes and runs add up. There are 2^(9 + m) bins; memory is only spent
on those in use: the first 12 bits (sign, exponent, 3 mantissa bits) name a page, and a category gets a page
when a score falls on it.

Letters: B images, H rows, W columns, M defective pixels, C categories, S pages in use, F bins per page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ader.metrics.curves import Array, Bins

PAGES = 4096
PAGE_SHIFT = 20  # key bits below the page number: 23 mantissa bits less the 3 that belong to the page
MANTISSA_BITS = 16


def float_key(score: Tensor) -> Tensor:
    """Order-preserving int32 key of float32 scores: -0.0 and 0.0 share key 0, infinities are the extremes."""
    bits = score.contiguous().view(torch.int32)
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def key_value(key: npt.NDArray[np.int64]) -> Array:
    """The score of each key: inverse of `float_key`."""
    magnitude = np.abs(key).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(key < 0, -magnitude, magnitude)


class HistogramState:
    """Counts per category and float-format bin; two states with the same settings add up.

    Args:
        categories: how many; the histogram knows them by index only.
        device: where the counts live and the counting is done.
        mantissa_bits: of float32's 23, how many a bin keeps, 3..23. Relative bin width 2^-mantissa_bits; 24
            bytes per bin, 2^(mantissa_bits - 3) bins per page in use, at most 4,096 pages per category.

    Raises:
        ValueError: ``mantissa_bits`` out of range.
    """

    profile = "histogram"

    def __init__(self, categories: int, device: torch.device | str = "cpu", mantissa_bits: int = MANTISSA_BITS) -> None:
        if not 3 <= mantissa_bits <= 23:
            raise ValueError(f"mantissa_bits: expected 3..23, got {mantissa_bits}")
        self.mantissa_bits = mantissa_bits
        self._shift = 23 - mantissa_bits
        self._fine = 1 << (mantissa_bits - 3)
        self.device = torch.device(device)
        self._slot = torch.full((categories * PAGES,), -1, dtype=torch.int64, device=device)
        self._pages = 0
        self._defective_SF = torch.zeros((0, self._fine), dtype=torch.int64, device=device)
        self._normal_SF = torch.zeros((0, self._fine), dtype=torch.int64, device=device)
        self._weight_SF = torch.zeros((0, self._fine), dtype=torch.float64, device=device)
        self._smallest_C = torch.full((categories,), torch.inf, dtype=torch.float32, device=device)
        self._largest_C = torch.full((categories,), -torch.inf, dtype=torch.float32, device=device)

    def add(self, category_B: Tensor, map_BHW: Tensor, mask_BHW: Tensor, weight_M: Tensor) -> None:
        """Counts the pixels of a batch; everything on the state's device.

        Args:
            category_B: int64 indices.
            map_BHW: float32 scores without NaN.
            mask_BHW: bool, True where defective.
            weight_M: float64 weights of the defective pixels, in the order of ``mask_BHW.nonzero()``.
        """
        self._smallest_C.scatter_reduce_(0, category_B, map_BHW.amin((1, 2)), "amin")
        self._largest_C.scatter_reduce_(0, category_B, map_BHW.amax((1, 2)), "amax")
        key = self._bin_key(float_key(map_BHW))
        page = (key >> PAGE_SHIFT) + PAGES // 2
        row = (page + (category_B * PAGES)[:, None, None]).view(-1)
        fine = ((key >> self._shift) & (self._fine - 1)).view(-1)
        index = self._slots_of(row).mul_(self._fine).add_(fine)
        mask = mask_BHW.reshape(-1)
        defective = index[mask]
        self._normal_SF.view(-1).scatter_add_(0, index, (~mask).long())
        self._defective_SF.view(-1).scatter_add_(0, defective, torch.ones_like(defective))
        self._weight_SF.view(-1).scatter_add_(0, defective, weight_M)

    def _bin_key(self, key: Tensor) -> Tensor:
        """Gives zero a bin of its own, as maps cut at zero are common: denormals next to it move up a bin."""
        if self._shift == 0:
            return key
        return torch.where(key > 0, key.clamp_min(1 << self._shift), key)

    def _slots_of(self, row: Tensor) -> Tensor:
        """Where in the pool each (category, page) row lies; rows not met before get a slot."""
        slot = self._slot.index_select(0, row)
        missing = row[slot < 0]
        if len(missing) == 0:
            return slot
        fresh = torch.unique(missing)
        self._reserve(self._pages + len(fresh))
        self._slot[fresh] = torch.arange(self._pages, self._pages + len(fresh), device=self.device)
        self._pages += len(fresh)
        return self._slot.index_select(0, row)

    def _reserve(self, pages: int) -> None:
        """Grows the pool to at least that many pages, by an eighth at a time so that copying stays rare."""
        room = len(self._normal_SF)
        if pages <= room:
            return
        grow = max(pages - room, room // 8)
        self._defective_SF, self._normal_SF, self._weight_SF = (
            torch.cat([pool, pool.new_zeros((grow, self._fine))])
            for pool in (self._defective_SF, self._normal_SF, self._weight_SF)
        )

    def merge(self, other: HistogramState) -> None:
        """Adds the counts of ``other``, which stays as it is; it may live on another device."""
        row, pools = other._used()
        slot = self._slots_of(row.to(self.device))
        for mine, theirs in zip((self._defective_SF, self._normal_SF, self._weight_SF), pools, strict=True):
            mine.index_add_(0, slot, theirs.to(self.device))
        self._smallest_C = torch.minimum(self._smallest_C, other._smallest_C.to(self.device))
        self._largest_C = torch.maximum(self._largest_C, other._largest_C.to(self.device))

    def _used(self) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The (category, page) rows in use, ascending, and copies of their counts."""
        row = (self._slot >= 0).nonzero().view(-1)
        slot = self._slot[row]
        return row, (self._defective_SF[slot], self._normal_SF[slot], self._weight_SF[slot])

    def bins(self, category: int) -> Bins:
        """The bins in use of one category, in descending order of score."""
        slot_P = self._slot[category * PAGES : (category + 1) * PAGES]
        page = (slot_P >= 0).nonzero().view(-1)
        counts = [pool[slot_P[page]].view(-1) for pool in (self._defective_SF, self._normal_SF, self._weight_SF)]
        used = ((counts[0] + counts[1]) > 0).nonzero().view(-1).flip(0)
        defective_K, normal_K, weight_K = (each[used].double().cpu().numpy() for each in counts)
        first = page[used // self._fine] - PAGES // 2
        start = ((first << PAGE_SHIFT) + ((used % self._fine) << self._shift)).cpu().numpy()
        low_K, high_K = self._edges(start, category)
        # Every addition of a weight or a bin may lose half an ulp of a fraction.
        rounding = 1e-11 + float(np.finfo(np.float64).eps) * float(defective_K.sum() + normal_K.sum())
        return Bins(defective_K, normal_K, weight_K, low_K, high_K, rounding)

    def _edges(self, start_K: npt.NDArray[np.int64], category: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Smallest and largest score that each bin can hold, cut to the category's own extremes."""
        step = 1 << self._shift
        last_K = np.where(start_K == 0, 0, start_K + step - 1)
        first_K = np.where((start_K == step) & (step > 1), 1, start_K)
        extremes = torch.stack([self._smallest_C[category], self._largest_C[category]])
        smallest, largest = float_key(extremes).long().tolist()
        return key_value(np.maximum(first_K, smallest)), key_value(np.minimum(last_K, largest))

    def nbytes(self) -> int:
        """Bytes of the counts and the page table."""
        tensors = (self._slot, self._defective_SF, self._normal_SF, self._weight_SF)
        return sum(each.numel() * each.element_size() for each in tensors)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the counts on the CPU, pages in use only."""
        row, pools = self._used()
        names = ("row", "defective", "normal", "weight", "smallest", "largest")
        tensors = (row, *pools, self._smallest_C.clone(), self._largest_C.clone())
        return {name: tensor.cpu() for name, tensor in zip(names, tensors, strict=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the counts by those of `state_dict`, onto the state's own device."""
        row = state["row"].to(self.device)
        self._slot.fill_(-1)
        self._slot[row] = torch.arange(len(row), device=self.device)
        self._pages = len(row)
        self._defective_SF, self._normal_SF, self._weight_SF, self._smallest_C, self._largest_C = (
            state[name].to(self.device, copy=True) for name in ("defective", "normal", "weight", "smallest", "largest")
        )
