"""The passes compiled for the CPU by Numba, on one thread: others would need counts of their own."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ader.metrics.kernels import REST, WEIGHT, Scan, Tables
from ader.metrics.keys import CHUNK_BITS, CHUNKS, PAGE_BITS, PAGES
from ader.metrics.layout import ABSENT, PAGE_SHIFT_BITS, PAGE_SHIFT_MASK, SHIFT_BITS, SHIFT_MASK

INT_MAX = np.int32(0x7FFFFFFF)
IN_PAGE = np.uint32((1 << PAGE_BITS) - 1)
IN_CHUNK = np.uint32((1 << CHUNK_BITS) - 1)
LAST_CHUNK = np.uint32(CHUNKS - 1)
TO_PAGE = np.uint32(PAGE_BITS)
TO_CHUNK = np.uint32(CHUNK_BITS)

Array = npt.NDArray[Any]


def compiled(function: Any) -> Any:
    """Compiled at the first call; kept on disk, where there is a place to write to."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True)(function)


@compiled
def _scan(bits_BN: Array, low_B: Array, high_B: Array, bits_B: Array) -> None:
    for image in range(bits_BN.shape[0]):
        low, high, every = INT_MAX, ~INT_MAX, np.int32(0)
        for pixel in range(bits_BN.shape[1]):
            bits = bits_BN[image, pixel]
            ordered = bits ^ ((bits >> 31) & INT_MAX)  # the key, less one where negative: as quick as it gets
            low, high = min(low, ordered), max(high, ordered)
            every |= bits
        low_B[image] = np.int64(low) + (low < 0)
        high_B[image] = np.int64(high) + (high < 0)
        bits_B[image] = every


# A function that took the tables and gave a place would be called by both of the next two, but Numba counts references
# to a function's arrays at every call: ten times slower than these loops.
@compiled
def _count(bits_BN: Array, row_B: Array, page_P: Array, node_DC: Array, normal_S: Array, missed: Array) -> int:
    found = 0
    for image in range(bits_BN.shape[0]):
        pages = page_P[row_B[image] * PAGES : (row_B[image] + 1) * PAGES]
        for pixel in range(bits_BN.shape[1]):
            bits = bits_BN[image, pixel]
            first = pages[np.uint64(bits >> TO_PAGE)]  # unsigned: no check for indices from the end
            if first >= 0:
                within = (bits & IN_PAGE) >> np.uint32(first & PAGE_SHIFT_MASK)
                normal_S[np.uint64(np.uint32(first >> PAGE_SHIFT_BITS) + within)] += np.uint32(1)
                continue
            if first < ABSENT:
                entry = node_DC[-2 - first, (bits >> TO_CHUNK) & LAST_CHUNK]
                if entry >= 0:
                    within = (bits & IN_CHUNK) >> np.uint32(entry & SHIFT_MASK)
                    normal_S[np.uint64(np.uint32(entry >> SHIFT_BITS) + within)] += np.uint32(1)
                    continue
            missed[found] = image * bits_BN.shape[1] + pixel
            found += 1
    return found


@compiled
def _mark(
    bits_N: Array,
    pixels: int,
    row_B: Array,
    position_M: Array,
    weight_M: Array,
    page_P: Array,
    node_DC: Array,
    normal_S: Array,
    defective_S: Array,
    weight_S: Array,
    rest_S: Array,
    late: Array,
) -> int:
    found = 0
    for m in range(len(position_M)):
        bits = np.int64(bits_N[position_M[m]])
        page = row_B[position_M[m] // pixels] * PAGES + (bits >> PAGE_BITS)
        first = np.int64(page_P[page])
        if first >= 0:
            place = (first >> PAGE_SHIFT_BITS) + ((bits & np.int64(IN_PAGE)) >> (first & PAGE_SHIFT_MASK))
        else:
            entry = np.int64(ABSENT)
            if first < ABSENT:
                entry = np.int64(node_DC[-2 - first, (bits >> CHUNK_BITS) & (CHUNKS - 1)])
            if entry < 0:
                late[found] = m
                found += 1
                continue
            place = (entry >> SHIFT_BITS) + ((bits & np.int64(IN_CHUNK)) >> (entry & SHIFT_MASK))
        normal_S[place] -= np.uint32(1)
        defective_S[place] += np.uint32(1)
        coarse = np.rint(weight_M[m] / WEIGHT) * WEIGHT
        weight_S[place] += coarse
        rest_S[place] += np.rint((weight_M[m] - coarse) / REST) * REST
    return found


@compiled
def _add(array_S: Array, place_K: Array, value_K: Array) -> None:
    for k in range(len(place_K)):
        array_S[place_K[k]] += value_K[k]


@compiled
def _label(mask_BHW: Array, image_I: Array, start_I: Array, position_M: Array, weight_M: Array, count_B: Array) -> None:
    """Runs of defective pixels in a row of the image, joined with those that they touch in the row above."""
    height, width = mask_BHW.shape[1], mask_BHW.shape[2]
    most = height * (width // 2 + 1)
    parent, area = np.empty(most, np.int32), np.empty(most, np.int32)
    first, last = np.empty(most, np.int32), np.empty(most, np.int32)  # columns of each run
    for i in range(len(image_I)):
        image, at, runs, above, above_end = image_I[i], start_I[i], 0, 0, 0
        for y in range(height):
            begin, candidate, x = runs, above, 0
            every = mask_BHW[image, y, 0]
            for column in range(width):
                every |= mask_BHW[image, y, column]
            if every == 0:
                above = above_end = runs
                continue
            while x < width:
                if mask_BHW[image, y, x] == 0:
                    x += 1
                    continue
                start = x
                while x < width and mask_BHW[image, y, x] != 0:
                    position_M[at] = (image * height + y) * width + x
                    weight_M[at] = runs
                    at += 1
                    x += 1
                parent[runs], area[runs], first[runs], last[runs] = runs, x - start, start, x - 1
                while candidate < above_end and last[candidate] < start - 1:
                    candidate += 1
                touching = candidate
                while touching < above_end and first[touching] <= x:
                    one, other = touching, runs
                    while parent[one] != one:
                        one = parent[one]
                    while parent[other] != other:
                        other = parent[other]
                    if one != other:
                        parent[max(one, other)] = min(one, other)
                        area[min(one, other)] += area[max(one, other)]
                    touching += 1
                runs += 1
            above, above_end = begin, runs
        regions = 0
        for run in range(runs):  # a run's parent comes before it, and has its root by now
            regions += parent[run] == run
            parent[run] = parent[parent[run]]
        count_B[image] = regions
        for m in range(start_I[i], at):
            weight_M[m] = 1.0 / area[parent[np.int32(weight_M[m])]]


def scan(map_BN: Tensor, mask_BN: Tensor | None) -> Scan:
    """See `Kernels.scan`."""
    images = len(map_BN)
    found = Scan(*(torch.zeros(images, dtype=kind) for kind in (torch.int64, torch.int64, torch.int64, torch.bool)))
    low_B, high_B, bits_B, marked_B = (each.numpy() for each in found)
    _scan(map_BN.numpy().view(np.int32), low_B, high_B, bits_B)
    if mask_BN is not None:
        mask_BN.numpy().view(np.bool_).any(axis=1, out=marked_B)  # of booleans, or NumPy would convert every byte
    return found


def count(tables: Tables, row_B: Tensor, map_BN: Tensor) -> Tensor:
    """See `Kernels.count`."""
    where = [each.numpy() for each in (tables.page_P, tables.node_DC)]
    missed = np.empty(map_BN.numel(), np.int64)
    found = _count(
        map_BN.numpy().view(np.uint32), row_B.numpy(), *where, tables.normal_S.numpy().view(np.uint32), missed
    )
    return torch.from_numpy(missed[:found].copy())


def mark(tables: Tables, row_B: Tensor, map_BN: Tensor, position_M: Tensor, weight_M: Tensor) -> Tensor:
    """See `Kernels.mark`."""
    narrow = (tables.normal_S.numpy().view(np.uint32), tables.defective_S.numpy().view(np.uint32))
    where = [each.numpy() for each in (tables.page_P, tables.node_DC)]
    counts = (*narrow, tables.weight_S.numpy(), tables.rest_S.numpy())
    pixels = (map_BN.reshape(-1).numpy().view(np.uint32), map_BN.shape[1], row_B.numpy(), position_M.numpy())
    late = np.empty(len(position_M), np.int64)
    found = _mark(*pixels, weight_M.numpy(), *where, *counts, late)
    return torch.from_numpy(late[:found].copy())


def take(array: Tensor, place_K: Tensor) -> Tensor:
    """See `Kernels.take`."""
    return torch.from_numpy(array.numpy()[place_K.numpy()])  # torch would wake all its threads for this


def add(array: Tensor, place_K: Tensor, value_K: Tensor) -> None:
    """See `Kernels.add`."""
    _add(array.numpy(), place_K.numpy(), value_K.numpy())


def move(array: Tensor, source_K: Tensor, target_K: Tensor) -> None:
    """See `Kernels.move`."""
    moved_K = array.numpy()[source_K.numpy()]
    array.numpy()[source_K.numpy()] = 0
    _add(array.numpy(), target_K.numpy(), moved_K)


def regions(mask_BHW: npt.NDArray[np.uint8], marked_B: npt.NDArray[np.bool_]) -> tuple[Array, Array, Array, Array]:
    """See `regions.label_regions`."""
    image_I = np.flatnonzero(marked_B)
    size_B = np.zeros(len(mask_BHW), np.int64)
    size_B[image_I] = [np.count_nonzero(mask_BHW[image]) for image in image_I]
    start_I = (np.cumsum(size_B) - size_B)[image_I]
    position_M, weight_M = np.empty(size_B.sum(), np.int64), np.empty(size_B.sum(), np.float64)
    count_B = np.zeros(len(mask_BHW), np.int64)
    _label(mask_BHW, image_I, start_I, position_M, weight_M, count_B)
    return position_M, weight_M, count_B, size_B
