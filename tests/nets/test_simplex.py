"""RD++'s simplex noise and the optimal transport between sets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from ader.nets.synthesis.simplex import GRADIENTS, SimplexPatches, near_vertices
from ader.nets.transport import sinkhorn_divergence

CPU = torch.device("cpu")


def test_gradients_are_those_of_opensimplex():
    """All ways to give one axis +-11 and the others +-4."""
    expected = {
        tuple(11 * sign if axis == long else 4 * sign for axis, sign in enumerate(signs))
        for long in range(3)
        for signs in itertools.product((1, -1), repeat=3)
    }
    assert {tuple(int(each) for each in gradient) for gradient in GRADIENTS} == expected
    assert len(GRADIENTS) == 24


def test_weights_are_a_sum_over_the_whole_honeycomb():
    """Every vertex in a wide cube, tried one by one, with a gradient that a formula gives it."""
    rng = np.random.default_rng(0)
    place_P3 = rng.uniform(-5, 5, (20, 3))

    def gradient(vertex):
        return np.array([math.sin(3.0 * vertex[0] + 5 * vertex[1] - vertex[2]), 1.0, math.cos(float(vertex.sum()))])

    expected = []
    for place in place_P3:
        total = 0.0
        middle = np.floor(place - place.sum() / 6).astype(int)
        for offset in itertools.product(range(-5, 7), repeat=3):
            vertex = middle + np.array(offset)
            way = place - (vertex + vertex.sum() / 3)  # squished: a cell's long diagonal is 2, edges sqrt(3)
            reach = 2 - float(way @ way)
            if reach > 0:
                total += reach**4 * float(gradient(vertex) @ way) / 103
        expected.append(total)
    vertex_PK3, weight_PK3 = near_vertices(place_P3)
    found = [
        sum(float(gradient(vertex) @ weight) for vertex, weight in zip(vertices, weights, strict=True))
        for vertices, weights in zip(vertex_PK3, weight_PK3, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_noise_is_continuous_and_each_image_has_its_own():
    """A vertex has one gradient, whatever place looks at it: else values would jump between neighbours."""
    smooth = SimplexPatches(octaves=1)
    seed_B = torch.tensor([5, 6, 5])
    noise_BCHW = smooth.noise(seed_B, (2, 70, 70), CPU)
    assert noise_BCHW[0].equal(noise_BCHW[2])
    assert (noise_BCHW[0] - noise_BCHW[1]).abs().max() > 0.3
    assert 0.3 < noise_BCHW.abs().max() < 1.1
    for axis in (2, 3):  # of 32 pixels a period
        assert noise_BCHW.diff(dim=axis).abs().max() < 0.2
    assert smooth.noise(seed_B[1:2], (2, 70, 70), CPU)[0].equal(noise_BCHW[1])  # whatever batch it is in


def test_octaves_add_up():
    """Each has half the period and 0.6 of the amplitude: an octave is the one before, seen at every second place."""
    shape, seed_B = (1, 20, 20), torch.arange(3)
    vertices = [near_vertices(_grid(shape) * 2**octave / 32) for octave in range(2)]
    coarse, fine = (weight.reshape(20, 20, -1, 3) for _, weight in vertices)
    least = min(coarse.shape[2], fine.shape[2])
    np.testing.assert_allclose(coarse[::2, ::2, :least], fine[:10, :10, :least], atol=1e-12)
    two = SimplexPatches(octaves=2).noise(seed_B, shape, CPU)
    one = SimplexPatches(octaves=1).noise(seed_B, shape, CPU)
    silent = SimplexPatches(octaves=2, persistence=0.0).noise(seed_B, shape, CPU)
    torch.testing.assert_close(one.abs().max(), silent.abs().max(), atol=1.0, rtol=0)
    louder = SimplexPatches(octaves=2, persistence=1.2).noise(seed_B, shape, CPU)
    torch.testing.assert_close(louder - silent, 2 * (two - silent), atol=1e-5, rtol=1e-5)


def _grid(shape):
    return np.indices(shape, dtype=np.float64).reshape(3, -1).T[:, ::-1]


def test_patches():
    """One rectangle in each image, sides in [10, 31] of 256, off the first row and column; the rest as it was."""
    image_BCHW = torch.rand(64, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    seed_B = torch.arange(64)
    noisy_BCHW = SimplexPatches(strength=0.2)(image_BCHW, seed_B)
    heights, widths = set(), set()
    for change_CHW in noisy_BCHW - image_BCHW:
        rows, columns = (change_CHW.abs().sum(dim=(0, axis)).nonzero().flatten() for axis in (2, 1))
        for found, sides in ((rows, heights), (columns, widths)):
            assert found[0] >= 1
            assert found[-1] <= 255
            sides.add(int(found[-1] - found[0]) + 1)
        inside = change_CHW[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (inside != 0).float().mean() > 0.99
        assert 0.02 < inside.abs().max() < 0.2 * 1.1 / (1 - 0.6)
    for sides in (heights, widths):
        assert min(sides) >= 9  # the noise may be 0 along an edge: it is at the lattice's own points
        assert max(sides) <= 31
        assert max(sides) - min(sides) > 15
    assert SimplexPatches(strength=0.2)(image_BCHW[7:8], seed_B[7:8])[0].equal(noisy_BCHW[7])


@pytest.mark.parametrize("size", [8, 16, 40, 100])
def test_small_images_get_small_patches(size):
    image_BCHW = torch.zeros(16, 3, size, size)
    change_BCHW = SimplexPatches()(image_BCHW, torch.arange(16))
    changed = (change_BCHW != 0).any(dim=1).float().sum(dim=(1, 2))
    assert changed.max() <= max(size // 8 - 1, 1) ** 2
    assert change_BCHW[:, :, 0].abs().sum() == 0
    assert change_BCHW[:, :, :, 0].abs().sum() == 0


def test_divergence_of_two_sets_is_that_of_the_best_assignment():
    """For a small blur, half the mean squared distance of the best pairing, which scipy finds."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(7, 4)), rng.normal(size=(7, 4)) + 0.5
    cost = ((first[:, None] - second) ** 2).sum(axis=2) / 2
    expected = cost[linear_sum_assignment(cost)].mean()
    found = sinkhorn_divergence(torch.from_numpy(first), torch.from_numpy(second), blur=0.01, scaling=0.99)
    assert found.item() == pytest.approx(expected, rel=0.01)


def test_divergence_of_shifted_sets():
    """Closed form: a shift by v costs |v|^2 / 2, whatever the blur; its gradient pulls every point along it."""
    torch.manual_seed(0)
    points, shift = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    moved = (points + shift).requires_grad_()
    found = sinkhorn_divergence(moved, points)
    assert found.item() == pytest.approx((shift @ shift).item() / 2, rel=1e-3)
    (gradient,) = torch.autograd.grad(found, moved)
    torch.testing.assert_close(gradient, shift.expand(5, 3) / 5, atol=0.02, rtol=0.02)


def test_divergence_from_itself_is_nothing():
    torch.manual_seed(0)
    points = torch.randn(6, 10, dtype=torch.float64)
    assert abs(sinkhorn_divergence(points, points[torch.randperm(6)], diameter=1e3).item()) < 1e-10
