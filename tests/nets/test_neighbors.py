"""Nearest neighbors and greedy coresets against their textbook forms in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as td
from scipy.spatial.distance import cdist

from ader.nets.scoring import neighbors as neighbors
from ader.nets.scoring.neighbors import greedy_coreset, nearest, squared_distances
from ader.system import dist
from ader.testing.processes import in_processes


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


def textbook(point_ND: torch.Tensor, first_N: torch.Tensor | None, count: int) -> list[int]:
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
    assert chosen.tolist() == textbook(point_ND, first_N, 60)
    assert first_N is None or first_N.equal(kept), "the caller's gaps were written to"


@pytest.mark.parametrize("pool", [1, 4, 30, 1000])
def test_coreset_with_duplicates(pool):
    """Copies come last, after all different points, and no point is chosen twice."""
    different_ND = points(20, 4)
    point_ND = torch.cat([different_ND] * 3)
    chosen = greedy_coreset(point_ND, 60, pool=pool).tolist()
    assert sorted(chosen) == list(range(60))
    assert sorted(number % 20 for number in chosen[:20]) == list(range(20))
    assert [n % 20 for n in chosen[:20]] == textbook(different_ND, None, 20)


def test_coreset_of_everything_and_of_one():
    assert greedy_coreset(points(7), 1).tolist() == [0]
    assert sorted(greedy_coreset(points(7), 7).tolist()) == list(range(7))


def on_a_grid(kind: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """150 points whose distances have no rounding, many of them equal, some 0; and gaps to start from."""
    generator = torch.Generator().manual_seed(0)
    point_ND = torch.randint(0, 5, (150, 3), generator=generator).float()
    first_N = torch.randint(0, 40, (150,), generator=generator).float()
    return {"plain": (point_ND, None), "given": (point_ND, first_N), "one place": (torch.ones(150, 3), None)}[kind]


def test_coreset_of_equally_far_points_takes_the_first():
    for kind in ("plain", "given", "one place"):
        point_ND, first_N = on_a_grid(kind)
        for pool in (1, 7, 40, 1000):
            assert greedy_coreset(point_ND, 120, first_N, pool).tolist() == textbook(point_ND, first_N, 120)


POOLS = (12, 40, 1000)


def choose(shares: tuple[int, ...]) -> dict[str, list[torch.Tensor]]:
    """What processes choose together with each pool, and the most numbers that were sent at once."""
    sent, broadcast = [0], td.broadcast
    td.broadcast = lambda part, src: sent.append(part.numel()) or broadcast(part, src=src)
    found = {}
    for kind in ("plain", "given", "one place"):
        point_ND, first_N = on_a_grid(kind)
        own = None if first_N is None else first_N.split(shares)[dist.rank()]
        for pool in POOLS:
            sent.clear()
            chosen = greedy_coreset(point_ND.split(shares)[dist.rank()], 60, own, pool)
            found[f"{kind} {pool}"] = [chosen, torch.tensor(max(sent))]
    return found


@pytest.mark.parametrize("shares", [(70, 80), (0, 9, 141)])
def test_processes_choose_as_one(shares):
    """The same points in the same order, and no more than a pool of them is sent."""
    cases = [(kind, pool) for kind in ("plain", "given", "one place") for pool in POOLS]
    expected = {kind: textbook(*on_a_grid(kind), 60) for kind, _ in cases}
    for found in in_processes(len(shares), 60, choose, shares):
        for kind, pool in cases:
            chosen, sent = found[f"{kind} {pool}"]
            assert chosen.tolist() == expected[kind], (kind, pool)
            assert sent <= pool * 3


@pytest.mark.parametrize("count", [0, 8, -1])
def test_coreset_refuses_impossible_counts(count):
    with pytest.raises(ValueError, match=rf"count must be in 1\.\.7, got {count}"):
        greedy_coreset(points(7), count)
