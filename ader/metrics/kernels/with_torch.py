"""The passes in plain torch, for any device: the reference for the compiled ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ader.metrics.kernels import REST, WEIGHT, Scan, Tables
from ader.metrics.keys import CHUNK_BITS, CHUNKS, PAGE_BITS, PAGES, float_key
from ader.metrics.layout import ABSENT, PAGE_SHIFT_BITS, PAGE_SHIFT_MASK, SHIFT_BITS, SHIFT_MASK


def scan(map_BN: Tensor, mask_BN: Tensor | None) -> Scan:
    """See `Kernels.scan`."""
    key_BN = float_key(map_BN)
    bits_B = map_BN.view(torch.int32)
    while bits_B.shape[1] > 1:  # a tree of ors: torch has no such reduction
        half = -(-bits_B.shape[1] // 2)
        bits_B = torch.cat(
            [bits_B[:, : bits_B.shape[1] - half] | bits_B[:, half:], bits_B[:, bits_B.shape[1] - half : half]], 1
        )
    marked_B = torch.zeros(len(map_BN), dtype=torch.bool) if mask_BN is None else mask_BN.amax(1) > 0
    low_B, high_B = key_BN.amin(1), key_BN.amax(1)
    return Scan(low_B.long().cpu(), high_B.long().cpu(), bits_B.view(-1).long().cpu(), marked_B.cpu())


def place(tables: Tables, row_N: Tensor, score_N: Tensor) -> Tensor:
    """As `Layout.place`: rows int64, scores float32; places int64."""
    bits_N = score_N.view(torch.int32)
    page_N = row_N * PAGES + ((bits_N >> PAGE_BITS) & (PAGES - 1))
    base_N = tables.page_P[page_N]
    dense_N = (base_N >> PAGE_SHIFT_BITS) + ((bits_N & ((1 << PAGE_BITS) - 1)) >> (base_N & PAGE_SHIFT_MASK))
    node_N = (-2 - base_N).clamp_min(0).long()
    entry_N = tables.node_DC[node_N, ((bits_N >> CHUNK_BITS) & (CHUNKS - 1)).long()]
    within_N = (bits_N & ((1 << CHUNK_BITS) - 1)) >> (entry_N & SHIFT_MASK)
    sparse_N = torch.where(entry_N == ABSENT, ABSENT, (entry_N >> SHIFT_BITS) + within_N)
    return torch.where(base_N >= 0, dense_N, torch.where(base_N == ABSENT, ABSENT, sparse_N)).long()


def count(tables: Tables, row_B: Tensor, map_BN: Tensor) -> Tensor:
    """See `Kernels.count`."""
    row_N = row_B.repeat_interleave(map_BN.shape[1])
    place_N = place(tables, row_N, map_BN.reshape(-1))
    known_N = place_N >= 0
    tables.normal_S.scatter_add_(0, place_N.clamp_min(0), known_N.int())
    return (~known_N).nonzero().view(-1)


def mark(tables: Tables, row_B: Tensor, map_BN: Tensor, position_M: Tensor, weight_M: Tensor) -> Tensor:
    """See `Kernels.mark`."""
    row_M = row_B[position_M.div(map_BN.shape[1], rounding_mode="floor")]
    place_M = place(tables, row_M, map_BN.reshape(-1)[position_M])
    known_M = place_M >= 0
    place_M, weight_M = place_M[known_M], weight_M[known_M]
    one_M = torch.ones_like(place_M, dtype=torch.int32)
    tables.normal_S.scatter_add_(0, place_M, -one_M)
    tables.defective_S.scatter_add_(0, place_M, one_M)
    coarse_M = (weight_M / WEIGHT).round() * WEIGHT
    tables.weight_S.scatter_add_(0, place_M, coarse_M)
    tables.rest_S.scatter_add_(0, place_M, ((weight_M - coarse_M) / REST).round() * REST)
    return (~known_M).nonzero().view(-1)


def take(array: Tensor, place_K: Tensor) -> Tensor:
    """See `Kernels.take`."""
    return array[place_K]


def add(array: Tensor, place_K: Tensor, value_K: Tensor) -> None:
    """See `Kernels.add`."""
    array.index_add_(0, place_K, value_K)


def move(array: Tensor, source_K: Tensor, target_K: Tensor) -> None:
    """See `Kernels.move`."""
    moved = array[source_K]
    array[source_K] = 0
    array.index_add_(0, target_K, moved)
