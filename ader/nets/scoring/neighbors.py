"""Greedy coresets and nearest neighbors without ever building a full distance matrix.

Shapes in names: N points, M bank items, Q queries, D dimensions, K neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ader.nets.scoring.maps import full_precision
from ader.system import dist

#: Elements of the largest block of distances held at once (float32: 128 MB).
BLOCK = 2**25


def squared_distances(point_ND: Tensor, other_MD: Tensor) -> Tensor:
    """Squared Euclidean distances (N, M), clamped at 0, by the expansion |a|^2 + |b|^2 - 2ab."""
    square_N = point_ND.square().sum(dim=1, keepdim=True)
    square_M = other_MD.square().sum(dim=1)
    return (square_N + square_M).addmm_(point_ND, other_MD.T, alpha=-2).clamp_(min=0)


def nearest(query_QD: Tensor, bank_MD: Tensor, k: int = 1, spare: int = 4) -> tuple[Tensor, Tensor]:
    """The k nearest bank items of each query, exactly.

    A matrix product ranks the bank block by block; its cancellation error can swap near ties, so ``spare`` more
    candidates are kept and the distances of all candidates are computed again from differences.

    Args:
        query_QD, bank_MD: float32 points.
        k: neighbors, at most M.
        spare: further candidates to rank again.

    Returns:
        Squared Euclidean distances (Q, K), ascending, and bank indices (Q, K).
    """
    with full_precision(query_QD.device):  # bfloat16 products would not even rank
        count = min(k + spare, len(bank_MD))
        center_D = bank_MD.mean(dim=0)  # distances do not change, products get smaller and so does their rounding
        bank_MD, query_QD = bank_MD - center_D, query_QD - center_D
        rows = max(1, BLOCK // max(1, min(len(bank_MD), 65536)))
        parts = [_nearest_block(part, bank_MD, count) for part in _split(query_QD, rows)]
        candidate_QK = torch.cat(parts)
        exact_QK = torch.cat(
            [
                (bank_MD[index] - query[:, None]).square().sum(dim=2)
                for query, index in zip(_split(query_QD, 1024), _split(candidate_QK, 1024), strict=True)
            ]
        )
        distance_QK, order_QK = exact_QK.topk(min(k, count), largest=False, sorted=True)
        return distance_QK, candidate_QK.gather(1, order_QK)


def _split(row_QD: Tensor, rows: int) -> Sequence[Tensor]:
    """So many rows at a time. An exported graph is for any number of them and has no loop: there all at once."""
    return [row_QD] if torch.compiler.is_compiling() else torch.split(row_QD, rows)


def _nearest_block(query_QD: Tensor, bank_MD: Tensor, count: int) -> Tensor:
    """Bank indices (Q, count) of the smallest expanded distances, walking over the bank in blocks."""
    if torch.compiler.is_compiling():  # the number of queries is not known
        columns = 65536
    else:
        columns = max(count, BLOCK // len(query_QD)) if len(query_QD) else len(bank_MD)
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(bank_MD), columns):
        block_MD = bank_MD[start : start + columns]
        # the query's own norm is the same for all items: leave it out
        value_QM = torch.addmm(block_MD.square().sum(dim=1), query_QD, block_MD.T, alpha=-2)
        value_QK, index_QK = value_QM.topk(min(count, len(block_MD)), dim=1, largest=False)
        index_QK = index_QK + start
        if best is not None:
            value_QK, index_QK = torch.cat([best[0], value_QK], dim=1), torch.cat([best[1], index_QK], dim=1)
            value_QK, keep = value_QK.topk(count, dim=1, largest=False)
            index_QK = index_QK.gather(1, keep)
        best = (value_QK, index_QK)
    assert best is not None
    return best[1]


def greedy_coreset(point_ND: Tensor, count: int, first_N: Tensor | None = None, pool: int = 4096) -> Tensor:
    """Indices of ``count`` points chosen one by one, each the farthest from all chosen so far (k-center greedy); of
    equally far ones the first.

    The textbook walks over all N points for every choice, which is bound by memory bandwidth. Here the ``pool``
    points with the largest gaps are looked at alone for as long as one of them is certain to be the farthest:
    gaps only shrink, so no point outside the pool can pass the smallest gap that was in it. Then all points are
    brought up to date with the new choices by one matrix product. The sequence of choices is the same.

    Several processes have a share of the points each, and call this together. Only pools are sent, once for hundreds of
    choices; the first process chooses among them, and each brings its own points up to date.

    Args:
        point_ND: float32 points of this process, which may have none.
        count: how many to choose, at most as many as all processes have.
        first_N: squared gap of each point to start from, which decides the first choice; None: point 0 comes first.
        pool: points looked at between two updates of all.

    Returns:
        int64 indices (count,) among the points of all processes in the order of ranks, in order of choice.

    Raises:
        ValueError: there are fewer points.
    """
    counts = dist.gather_objects(len(point_ND))
    offset, total = sum(counts[: dist.rank()]), sum(counts)
    if not 0 < count <= total:
        raise ValueError(f"count must be in 1..{total}, got {count}")
    if first_N is None:
        first_N = torch.full_like(point_ND[:, 0], torch.finfo(point_ND.dtype).max / 2)
        if offset == 0:
            first_N[:1] *= 2
    gap_N = first_N.clone()
    chosen = torch.empty(0, dtype=torch.int64, device=point_ND.device)
    while len(chosen) < count:
        index_T, gap_T, point_TD = _pool(point_ND, gap_N, counts, pool)
        picks: list[int] = []
        if dist.is_main():
            picks = _greedy_within(point_TD, gap_T, len(gap_T) == total, count - len(chosen))
        picks = dist.gather_objects(picks)[0]
        for start in range(0, len(gap_N), rows := max(1, BLOCK // len(picks))):
            part = slice(start, start + rows)
            nearest_n = squared_distances(point_ND[part], point_TD[picks]).amin(dim=1)
            gap_N[part] = torch.minimum(gap_N[part], nearest_n)
        new = index_T[picks]
        own = new[(new >= offset) & (new < offset + len(gap_N))] - offset
        gap_N[own] = -1  # rounding must not let a point be chosen again
        chosen = torch.cat([chosen, new])
    return chosen


def _pool(point_ND: Tensor, gap_N: Tensor, counts: Sequence[int], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``size`` points with the largest gaps among those of all processes.

    Args:
        point_ND, gap_N: of this process.
        counts: points of each process.
        size: points asked for.

    Returns:
        Indices among all points (T,), ascending, gaps (T,) and points (T, D); the same in every process.
    """
    best_n = _largest(gap_N, size)
    candidates = [min(size, each) for each in counts]
    gap_C = dist.gather_rows(gap_N[best_n], candidates)
    taken_T = _largest(gap_C, size)
    start = sum(candidates[: dist.rank()])
    best_n = best_n[taken_T[(taken_T >= start) & (taken_T < start + len(best_n))] - start]
    index_T = dist.gather_rows(best_n + sum(counts[: dist.rank()]))
    return index_T, gap_C[taken_T], dist.gather_rows(point_ND[best_n])


def _largest(value_N: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest values, ascending; of equal values those that come first."""
    return value_N.argsort(descending=True, stable=True)[:count].sort().values


def _greedy_within(point_TD: Tensor, gap_T: Tensor, whole: bool, most: int) -> list[int]:
    """Greedy choice among the T points with the largest gaps, for as long as no other could come before them.

    Args:
        point_TD, gap_T: in the order of the points' indices.
        whole: there are no other points.
        most: how many to choose.

    Returns:
        Their places in the pool, in order of choice.
    """
    square_T = point_TD.square().sum(dim=1)
    last = int(gap_T.argsort(descending=True, stable=True)[-1])  # all others come after it
    limit = -1.0 if whole else float(gap_T[last])
    gap_T = gap_T.clone()
    picks: list[int] = []
    while len(picks) < most:
        largest = gap_T.max(dim=0)  # the first of equal ones
        gap, index = float(largest.values), int(largest.indices)
        if picks and (gap < 0 or gap < limit or (gap == limit and index > last)):
            break
        distance_T = torch.addmv(square_T + square_T[index], point_TD, point_TD[index], alpha=-2).clamp_(min=0)
        torch.minimum(gap_T, distance_T, out=gap_T)
        gap_T[index] = -1
        picks.append(index)
    return picks
