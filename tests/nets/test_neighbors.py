"""Nearest neighbors and greedy coresets against their textbook forms in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from ader.nets.scoring import neighbors as neighbors
from ader.nets.scoring.neighbors import greedy_coreset, nearest, squared_distances


def points(count: int, dimensions: int = 6, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator) + offset


def brute(query_QD: torch.Tensor, bank_MD: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    distance_QM = cdist(query_QD.double().numpy(), bank_MD.double().numpy(), "sqeuclidean")
    order_QK = np.argsort(distance_QM, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distance_QM, order_QK, 1), order_QK


@pytest.mark.parametrize("block", [2**25, 64, 7])
@pytest.mark.parametrize(
    ("queries", "bank", "k"), [(50, 40, 1), (50, 40, 3), (3, 200, 5), (9, 4, 3), (1, 1, 1), (5, 3, 9)]
)
def test_nearest_is_brute_force(monkeypatch, block, queries, bank, k):
    monkeypatch.setattr(neighbors, "BLOCK", block)
    query_QD, bank_MD = points(queries, seed=1), points(bank, seed=2)
    distance_QK, index_QK = nearest(query_QD, bank_MD, k)
    expected, order = brute(query_QD, bank_MD, k)
    np.testing.assert_allclose(distance_QK.numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(index_QK.numpy(), order)


def test_nearest_of_no_query():
    distance_QK, index_QK = nearest(points(0), points(10), 2)
    assert distance_QK.shape == index_QK.shape == (0, 2)


def test_nearest_with_ties():
    """Equal distances may name any of the equal items, each once."""
    bank_MD = torch.cat([points(3)] * 4)
    distance_QK, index_QK = nearest(points(3), bank_MD, 4)
    assert distance_QK.eq(0).all()
    for query, index_K in enumerate(index_QK.tolist()):
        assert sorted(index_K) == [query, query + 3, query + 6, query + 9]


def test_nearest_is_exact_far_from_the_origin():
    """Rounding of |a|^2 + |b|^2 - 2ab at an offset of 1000 is about 1; the distances are about 10."""
    query_QD, bank_MD = points(30, seed=1, offset=1000), points(50, seed=2, offset=1000)
    distance_QK, index_QK = nearest(query_QD, bank_MD, 2)
    expected, order = brute(query_QD, bank_MD, 2)
    np.testing.assert_allclose(distance_QK.numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(index_QK.numpy(), order)


def test_nearest_is_exact_under_autocast():
    """In a crowd: bfloat16 products are off by more than the distance to the hundredth neighbor."""
    query_QD, bank_MD = points(60, 2, seed=1), points(2000, 2, seed=2)
    plain = nearest(query_QD, bank_MD, 3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nearest(query_QD, bank_MD, 3)
    assert all(a.equal(b) for a, b in zip(plain, mixed, strict=True))


@pytest.mark.parametrize(("queries", "bank", "block"), [(64, 500, 1000), (3, 900, 100), (900, 3, 100)])
def test_nearest_never_holds_all_distances(monkeypatch, queries, bank, block):
    sizes, addmm = [], torch.addmm
    monkeypatch.setattr(neighbors, "BLOCK", block)
    monkeypatch.setattr(torch, "addmm", lambda *a, **k: sizes.append((out := addmm(*a, **k)).numel()) or out)
    nearest(points(queries), points(bank), 1)
    assert sum(sizes) == queries * bank  # each distance once
    assert max(sizes) <= block


def test_squared_distances():
    one_ND, two_MD = points(20), points(30, seed=1)
    expected = cdist(one_ND.double().numpy(), two_MD.double().numpy(), "sqeuclidean")
    np.testing.assert_allclose(squared_distances(one_ND, two_MD).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert squared_distances(one_ND + 1e4, one_ND + 1e4).min() >= 0  # cancellation must not go below


def textbook(point_ND: torch.Tensor, count: int, first_N: torch.Tensor | None) -> list[int]:
    """Greedy k-center, one point after another, over the full distance matrix in float64."""
    exact_ND = point_ND.double().numpy()
    distance_NN = cdist(exact_ND, exact_ND, "sqeuclidean")
    gap_N = np.full(len(exact_ND), np.inf) if first_N is None else first_N.double().numpy().copy()
    chosen: list[int] = []
    for _ in range(count):
        free = [number for number in range(len(gap_N)) if number not in chosen]
        pick = max(free, key=lambda number: (gap_N[number], -number))
        chosen.append(pick)
        gap_N = np.minimum(gap_N, distance_NN[pick])
    return chosen


@pytest.mark.parametrize("block", [2**25, 50])
@pytest.mark.parametrize("pool", [1, 2, 5, 17, 64, 200, 1000])
@pytest.mark.parametrize("given", [False, True])
def test_coreset_is_the_textbook_greedy(monkeypatch, pool, given, block):
    monkeypatch.setattr(neighbors, "BLOCK", block)
    point_ND = points(200, 5)
    first_N = points(200, 1, seed=3)[:, 0].square() * 10 if given else None
    kept = None if first_N is None else first_N.clone()
    chosen = greedy_coreset(point_ND, 60, first_N, pool)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == textbook(point_ND, 60, first_N)
    assert first_N is None or first_N.equal(kept), "the caller's gaps were written to"


@pytest.mark.parametrize("pool", [1, 4, 30, 1000])
def test_coreset_with_duplicates(pool):
    """Copies come last, after all different points, and no point is chosen twice."""
    different_ND = points(20, 4)
    point_ND = torch.cat([different_ND] * 3)
    chosen = greedy_coreset(point_ND, 60, pool=pool).tolist()
    assert sorted(chosen) == list(range(60))
    assert sorted(number % 20 for number in chosen[:20]) == list(range(20))
    assert [n % 20 for n in chosen[:20]] == textbook(different_ND, 20, None)


def test_coreset_of_everything_and_of_one():
    assert greedy_coreset(points(7), 1).tolist() == [0]
    assert sorted(greedy_coreset(points(7), 7).tolist()) == list(range(7))


@pytest.mark.parametrize("count", [0, 8, -1])
def test_coreset_refuses_impossible_counts(count):
    with pytest.raises(ValueError, match=rf"count must be in 1\.\.7, got {count}"):
        greedy_coreset(points(7), count)
