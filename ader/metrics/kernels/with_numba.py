"""The passes compiled for the CPU by Numba, on several threads that each have counts of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ader.metrics.kernels import Scan, Tables
from ader.metrics.keys import CHUNK_BITS, CHUNKS, PAGE_BITS, PAGES
from ader.metrics.layout import ABSENT, SHIFT_BITS, SHIFT_MASK

MOST_THREADS = 4  # each has counts of its own, 4 bytes per bin
WORTH = 1 << 15  # pixels for which waking another thread pays
SIGN = np.int32(0x7FFFFFFF)
IN_PAGE = np.int32((1 << PAGE_BITS) - 1)
IN_CHUNK = np.int32((1 << CHUNK_BITS) - 1)
HALF = PAGES // 2

Array = npt.NDArray[Any]
compiled = functools.partial(numba.njit, nogil=True, cache=True, boundscheck=False)


@compiled()
def _scan(bits_BN: Array, low_B: Array, high_B: Array, bits_B: Array) -> None:
    for image in range(bits_BN.shape[0]):
        low, high, every = SIGN, ~SIGN, np.int32(0)
        for pixel in range(bits_BN.shape[1]):
            bits = bits_BN[image, pixel]
            ordered = bits ^ ((bits >> 31) & SIGN)  # the key, less one where negative: as quick as it gets
            low, high = min(low, ordered), max(high, ordered)
            every |= bits
        low_B[image] = np.int64(low) + (low < 0)
        high_B[image] = np.int64(high) + (high < 0)
        bits_B[image] = every


@compiled()
def _any(mask_BN: Array, marked_B: Array) -> None:
    for image in range(mask_BN.shape[0]):
        every = mask_BN[image, 0]
        for pixel in range(mask_BN.shape[1]):
            every |= mask_BN[image, pixel]
        marked_B[image] = every != 0


@compiled()
def _key(bits: Any) -> Any:
    sign = bits >> 31
    return ((bits & SIGN) ^ sign) - sign


# A function that took the tables and gave a place would be called by both of the next two, but Numba counts references
# to a function's arrays at every call: ten times slower than these loops.
@compiled()
def _count(
    start: int,
    bits_BN: Array,
    row_B: Array,
    base_P: Array,
    shift_P: Array,
    node_DC: Array,
    normal_S: Array,
    missed: Array,
) -> int:
    found = 0
    for image in range(bits_BN.shape[0]):
        base = base_P[row_B[image] * PAGES : (row_B[image] + 1) * PAGES]
        shift = shift_P[row_B[image] * PAGES : (row_B[image] + 1) * PAGES]
        for pixel in range(bits_BN.shape[1]):
            key = _key(bits_BN[image, pixel])
            page = np.uint64((key >> PAGE_BITS) + HALF)  # unsigned: no check for indices from the end
            first = base[page]
            if first >= 0:
                normal_S[np.uint64(first + ((key & IN_PAGE) >> shift[page]))] += np.uint32(1)
                continue
            if first < ABSENT:
                entry = node_DC[-2 - first, (key >> CHUNK_BITS) & (CHUNKS - 1)]
                if entry >= 0:
                    within = (key & IN_CHUNK) >> (entry & SHIFT_MASK)
                    normal_S[np.uint64((entry >> SHIFT_BITS) + within)] += np.uint32(1)
                    continue
            missed[found] = (start + image) * bits_BN.shape[1] + pixel
            found += 1
    return found


@compiled()
def _mark(
    bits_N: Array,
    pixels: int,
    row_B: Array,
    position_M: Array,
    weight_M: Array,
    base_P: Array,
    shift_P: Array,
    node_DC: Array,
    normal_S: Array,
    defective_S: Array,
    weight_S: Array,
) -> None:
    for m in range(len(position_M)):
        key = _key(bits_N[position_M[m]])
        page = row_B[position_M[m] // pixels] * PAGES + (key >> PAGE_BITS) + HALF
        first = base_P[page]
        if first >= 0:
            place = first + ((key & IN_PAGE) >> shift_P[page])
        else:
            entry = node_DC[-2 - first, (key >> CHUNK_BITS) & (CHUNKS - 1)]
            place = (entry >> SHIFT_BITS) + ((key & IN_CHUNK) >> (entry & SHIFT_MASK))
        normal_S[place] -= np.uint32(1)
        defective_S[place] += np.uint32(1)
        weight_S[place] += weight_M[m]


@compiled()
def _add(array_S: Array, place_K: Array, value_K: Array) -> None:
    for k in range(len(place_K)):
        array_S[place_K[k]] += value_K[k]


@compiled()
def _sizes(mask_BN: Array, image_I: Array, size_I: Array) -> None:
    for i in range(len(image_I)):
        size = 0
        for pixel in range(mask_BN.shape[1]):
            size += mask_BN[image_I[i], pixel] != 0
        size_I[i] = size


@compiled()
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


@functools.cache
def threads() -> int:
    """As many as torch uses, up to `MOST_THREADS`."""
    return max(1, min(MOST_THREADS, torch.get_num_threads()))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix="ader-evaluator")


def spread(work: Callable[[int, int, int], Any], images: int, worth: bool = True) -> list[Any]:
    """``work(thread, start, stop)`` on contiguous parts of the images, side by side where that is worth it."""
    if not worth:
        return [work(0, 0, images)] if images else []
    cuts = [images * part // threads() for part in range(threads() + 1)]
    parts = [(part, cuts[part], cuts[part + 1]) for part in range(threads()) if cuts[part] < cuts[part + 1]]
    if len(parts) < 2:
        return [work(*part) for part in parts]
    return list(_pool().map(lambda part: work(*part), parts))


def scan(map_BN: Tensor, mask_BN: Tensor | None) -> Scan:
    """See `Kernels.scan`."""
    images = len(map_BN)
    bits_BN = map_BN.numpy().view(np.int32)
    found = Scan(*(torch.zeros(images, dtype=kind) for kind in (torch.int64, torch.int64, torch.int64, torch.bool)))
    low_B, high_B, bits_B, marked_B = (each.numpy() for each in found)

    def part(thread: int, start: int, stop: int) -> None:
        _scan(bits_BN[start:stop], low_B[start:stop], high_B[start:stop], bits_B[start:stop])
        if mask_BN is not None:
            _any(_words(mask_BN.numpy()[start:stop]), marked_B[start:stop])

    spread(part, images)
    return found


def _words(mask_BN: Array) -> Array:
    """Eight bytes at a time where the shape allows it."""
    return mask_BN.view(np.uint64) if mask_BN.shape[1] % 8 == 0 and mask_BN.ctypes.data % 8 == 0 else mask_BN


def count(tables: Tables, row_B: Tensor, map_BN: Tensor) -> Tensor:
    """See `Kernels.count`."""
    bits_BN, rows = map_BN.numpy().view(np.int32), row_B.numpy()
    where = [each.numpy() for each in (tables.base_P, tables.shift_P, tables.node_DC)]
    normal_TS = tables.normal_TS.numpy().view(np.uint32)

    def part(thread: int, start: int, stop: int) -> Array:
        missed = np.empty((stop - start) * bits_BN.shape[1], np.int64)
        found = _count(start, bits_BN[start:stop], rows[start:stop], *where, normal_TS[thread], missed)
        return missed[:found]

    return torch.from_numpy(
        np.concatenate([np.zeros(0, np.int64), *spread(part, len(map_BN), worth=map_BN.numel() > WORTH)])
    )


def mark(tables: Tables, row_B: Tensor, map_BN: Tensor, position_M: Tensor, weight_M: Tensor) -> None:
    """See `Kernels.mark`."""
    counts = (tables.normal_TS[0].numpy().view(np.uint32), tables.defective_S.numpy().view(np.uint32))
    where = [each.numpy() for each in (tables.base_P, tables.shift_P, tables.node_DC)]
    bits_N = map_BN.reshape(-1).numpy().view(np.int32)
    _mark(
        bits_N,
        map_BN.shape[1],
        row_B.numpy(),
        position_M.numpy(),
        weight_M.numpy(),
        *where,
        *counts,
        tables.weight_S.numpy(),
    )


def take(array: Tensor, place_K: Tensor) -> Tensor:
    """See `Kernels.take`."""
    return torch.from_numpy(array.numpy()[..., place_K.numpy()])  # torch would wake all its threads for this


def add(array: Tensor, place_K: Tensor, value_K: Tensor) -> None:
    """See `Kernels.add`."""
    _add(array.numpy(), place_K.numpy(), value_K.numpy())


def move(array: Tensor, source_K: Tensor, target_K: Tensor) -> None:
    """See `Kernels.move`."""
    source, target = source_K.numpy(), target_K.numpy()
    for array_S in array.view(-1, array.shape[-1]).numpy():
        moved_K = array_S[source]
        array_S[source] = 0
        _add(array_S, target, moved_K)


def regions(mask_BHW: npt.NDArray[np.uint8], marked_B: npt.NDArray[np.bool_]) -> tuple[Array, Array, Array, Array]:
    """See `regions.label_regions`."""
    image_I = np.flatnonzero(marked_B)
    size_I = np.zeros(len(image_I), np.int64)
    _sizes(mask_BHW.reshape(len(mask_BHW), -1), image_I, size_I)
    start_I = np.cumsum(size_I) - size_I
    position_M, weight_M = np.empty(size_I.sum(), np.int64), np.empty(size_I.sum(), np.float64)
    count_B = np.zeros(len(mask_BHW), np.int64)

    def part(thread: int, start: int, stop: int) -> None:
        _label(mask_BHW, image_I[start:stop], start_I[start:stop], position_M, weight_M, count_B)

    spread(part, len(image_I))
    size_B = np.zeros(len(mask_BHW), np.int64)
    size_B[image_I] = size_I
    return position_M, weight_M, count_B, size_B
