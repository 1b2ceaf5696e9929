"""The passes over every pixel compiled for CUDA by Triton; what touches few pixels is left to torch."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ader.metrics import keys, layout
from ader.metrics.kernels import Scan, Tables
from ader.metrics.kernels.with_torch import add, mark, move, take

__all__ = ["add", "count", "mark", "move", "scan", "take"]

SIGN = tl.constexpr(0x7FFFFFFF)
PAGE_BITS = tl.constexpr(keys.PAGE_BITS)
CHUNK_BITS = tl.constexpr(keys.CHUNK_BITS)
IN_PAGE = tl.constexpr((1 << keys.PAGE_BITS) - 1)
IN_CHUNK = tl.constexpr((1 << keys.CHUNK_BITS) - 1)
PAGES = tl.constexpr(keys.PAGES)
LAST_PAGE = tl.constexpr(keys.PAGES - 1)
LAST_CHUNK = tl.constexpr(keys.CHUNKS - 1)
CHUNKS = tl.constexpr(keys.CHUNKS)
ABSENT = tl.constexpr(layout.ABSENT)
PAGE_SHIFT_BITS = tl.constexpr(layout.PAGE_SHIFT_BITS)
PAGE_SHIFT_MASK = tl.constexpr(layout.PAGE_SHIFT_MASK)
SHIFT_BITS = tl.constexpr(layout.SHIFT_BITS)
SHIFT_MASK = tl.constexpr(layout.SHIFT_MASK)
BLOCK = 1024
SCAN_BLOCK = 4096


@triton.jit
def _or(one: Any, other: Any) -> Any:
    return one | other


@triton.jit
def _scan(
    bits_BN: Any,
    mask_BN: Any,
    low_B: Any,
    high_B: Any,
    bits_B: Any,
    marked_B: Any,
    pixels: Any,
    masked: tl.constexpr,
    block: tl.constexpr,
) -> None:
    image = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * block + tl.arange(0, block)
    inside = pixel < pixels
    first = tl.load(bits_BN + image * pixels)  # stands in for what is outside
    bits = tl.load(bits_BN + image * pixels + pixel, mask=inside, other=0)
    bits = tl.where(inside, bits, first)
    sign = bits >> 31
    key = ((bits & SIGN) ^ sign) - sign
    tl.atomic_min(low_B + image, tl.min(key, 0))
    tl.atomic_max(high_B + image, tl.max(key, 0))
    tl.atomic_or(bits_B + image, tl.reduce(bits, 0, _or))
    if masked:
        mask = tl.load(mask_BN + image * pixels + pixel, mask=inside, other=0)
        tl.atomic_max(marked_B + image, (tl.max(mask.to(tl.int32), 0) > 0).to(tl.int32))


@triton.jit
def _count(
    bits_N: Any,
    row_B: Any,
    page_P: Any,
    node_DC: Any,
    normal_S: Any,
    missed: Any,
    found: Any,
    pixels: Any,
    total: Any,
    block: tl.constexpr,
) -> None:
    position = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = position < total
    bits = tl.load(bits_N + position, mask=inside, other=0)
    row = tl.load(row_B + position // pixels, mask=inside, other=0)
    page = row * PAGES + ((bits >> PAGE_BITS) & LAST_PAGE)
    base = tl.load(page_P + page, mask=inside, other=ABSENT)
    dense = (base >> PAGE_SHIFT_BITS) + ((bits & IN_PAGE) >> (base & PAGE_SHIFT_MASK))
    sparse = inside & (base < ABSENT)
    node = tl.where(sparse, -2 - base, 0).to(tl.int64)
    entry = tl.load(node_DC + node * CHUNKS + ((bits >> CHUNK_BITS) & LAST_CHUNK), mask=sparse, other=ABSENT)
    within = (bits & IN_CHUNK) >> (entry & SHIFT_MASK)
    place = tl.where(base >= 0, dense, tl.where(entry >= 0, (entry >> SHIFT_BITS) + within, ABSENT))
    hit = inside & (place >= 0)
    tl.atomic_add(normal_S + place, 1, mask=hit, sem="relaxed")
    miss = (inside & (place < 0)).to(tl.int32)
    misses = tl.sum(miss, 0)
    if misses > 0:
        start = tl.atomic_add(found, misses)
        tl.store(missed + start + tl.cumsum(miss, 0) - 1, position, mask=miss > 0)


def scan(map_BN: Tensor, mask_BN: Tensor | None) -> Scan:
    """See `Kernels.scan`."""
    images, pixels = map_BN.shape
    limits = torch.iinfo(torch.int32)
    starts = (limits.max, limits.min, 0, 0)
    found = torch.tensor(starts, dtype=torch.int32, device=map_BN.device).repeat(images, 1).t().contiguous()
    masks = map_BN if mask_BN is None else mask_BN
    grid = (images, triton.cdiv(pixels, SCAN_BLOCK))
    bits_BN = map_BN.view(torch.int32)
    _scan[grid](bits_BN, masks, *found, pixels, masked=mask_BN is not None, block=SCAN_BLOCK)
    low_B, high_B, bits_B, marked_B = found.cpu().long()
    return Scan(low_B, high_B, bits_B, marked_B.bool())


def count(tables: Tables, row_B: Tensor, map_BN: Tensor) -> Tensor:
    """See `Kernels.count`."""
    total = map_BN.numel()
    missed = torch.empty(total, dtype=torch.int64, device=map_BN.device)
    found = torch.zeros(1, dtype=torch.int32, device=map_BN.device)
    where = (tables.page_P, tables.node_DC, tables.normal_S)
    grid = (triton.cdiv(total, BLOCK),)
    bits_N = map_BN.reshape(-1).view(torch.int32)
    _count[grid](bits_N, row_B, *where, missed, found, map_BN.shape[1], total, block=BLOCK)
    return missed[: int(found)]
