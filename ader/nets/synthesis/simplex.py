"""Patches of fractal simplex noise for whole batches, each image's own: RD++'s anomalies.

The noise is OpenSimplex's in three dimensions (Kurt Spencer, 2014, public domain; the references took in the Python
version lmas/opensimplex): every vertex of a simplectic honeycomb has a gradient, one of 24, and a value is the sum over
the vertices nearer than sqrt(2) of ``(2 - d^2)^4 gradient . way``. OpenSimplex finds these vertices by going through
regions of a cell, one place at a time. Here places are the same for all images, a grid that begins at the origin, so
that vertices and weights are tables and only the gradients belong to an image.

Differences from upstream:
- A vertex's gradient is a hash of the image's seed and the vertex, where upstream has one permutation of 256 numbers
  for a whole run. There all images have the same field, since every patch begins at the origin, and differ in the
  patch's size and place only.
- Upstream's regions miss some vertices that are almost sqrt(2) away; with equal gradients its noise, which is up to 1,
  differs from this by less than 0.0001 (`python -m parity rdpp`).

Shapes in names: B images, C channels, H height, W width, P places, K vertices near a place, V vertices, D axes.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from ader.nets.synthesis.draws import integers, uniform

#: Sums are divided by this, which makes them about [-1, 1].
_SCALE = 103.0

#: Directions to the vertices of a rhombicuboctahedron, skewed: 11 along one axis, 4 along the others.
GRADIENTS = np.array(
    [
        [sign * (11 if axis == long else 4) for axis, sign in enumerate(signs)]
        for signs in itertools.product((1, -1), repeat=3)
        for long in range(3)
    ],
    dtype=np.float32,
)


class SimplexPatches(nn.Module):
    """Adds a rectangle of noise to every image (Tien et al., section 3.2).

    Height and width are uniform in [10, S // 8) pixels for sides of S, places such that the rectangle lies inside and
    off the first row and column; images below 88 pixels get smaller ones. Values are not clipped, here and upstream.

    Args:
        strength: factor of the noise.
        octaves: of the noise; each has half the period of the one before.
        persistence: amplitude of an octave, relative to the one before.
        period: of the first octave, in pixels; channels are so many pixels apart as their numbers are.
    """

    def __init__(self, strength: float = 0.2, octaves: int = 6, persistence: float = 0.6, period: float = 32.0) -> None:
        super().__init__()
        self.strength, self.octaves, self.persistence, self.period = strength, octaves, persistence, period
        self._tables: dict[tuple[tuple[int, ...], torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor, seed_B: Tensor) -> Tensor:
        """The images with their patches, same shape and type.

        Args:
            image_BCHW: RGB in [0, 1].
            seed_B: one for each image; on the CPU, or the device is waited for.
        """
        device = image_BCHW.device
        seed_B = seed_B.to(device, non_blocking=True)
        channels, height, width = image_BCHW.shape[1:]
        rows, columns = (_longest(side) for side in (height, width))
        noise_BCPP = self.noise(seed_B, (channels, rows, columns), device)
        place_BH, in_BH = _stretch(seed_B, "height", height, device)
        place_BW, in_BW = _stretch(seed_B, "width", width, device)
        image = torch.arange(len(seed_B), device=device)[:, None, None]
        patch_BHWC = noise_BCPP.permute(0, 2, 3, 1)[image, place_BH[:, :, None], place_BW[:, None]]
        inside_BHW1 = (in_BH[:, :, None] & in_BW[:, None])[..., None]
        patch_BCHW = (self.strength * patch_BHWC * inside_BHW1).permute(0, 3, 1, 2)
        return image_BCHW + patch_BCHW.to(image_BCHW.dtype)

    def noise(self, seed_B: Tensor, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Fields (B, *shape), float32, of channels, rows and columns; the first octave's values are about [-1, 1]."""
        if (shape, device) not in self._tables:
            vertex_PK, weight_PKD = _table(shape, self.octaves, self.persistence, self.period)
            vertices, weights, directions = (
                torch.from_numpy(each).to(device) for each in (vertex_PK, weight_PKD, GRADIENTS)
            )
            self._tables[shape, device] = vertices, weights, directions
        number_PK, way_PKD, gradient_24D = self._tables[shape, device]
        count = _count(shape, self.octaves, self.persistence, self.period)
        gradient_BVD = gradient_24D[integers(seed_B, "simplex/gradients", len(gradient_24D), count)]
        total_BP = torch.zeros(len(seed_B), len(number_PK), device=device)
        for vertex_P, weight_PD in zip(number_PK.unbind(1), way_PKD.unbind(1), strict=True):
            total_BP += (gradient_BVD[:, vertex_P] * weight_PD).sum(dim=2)
        return total_BP.view(-1, *shape)


def _longest(side: int) -> int:
    """Pixels that a patch has at most along a side: below an eighth of it, as upstream draws them."""
    return max(side // 8 - 1, 1)


def _stretch(seed_B: Tensor, way: str, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one side, for each pixel: its place in the patch (cut to it), and whether it is inside; (B, side) both."""
    longest = _longest(side)
    shortest = min(10, longest)
    long_B = shortest + integers(seed_B, f"simplex/{way}", longest - shortest + 1)
    start_B = 1 + (uniform(seed_B, f"simplex/{way} start") * (side - long_B - 1)).long()
    place_BS = torch.arange(side, device=device) - start_B[:, None]
    return place_BS.clamp(0, longest - 1), (place_BS >= 0) & (place_BS < long_B[:, None])


@cache
def _table(
    shape: tuple[int, int, int], octaves: int, persistence: float, period: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of every place (channel, row, column) the vertices that reach it in any octave (P, K), numbered from 0 over all
    octaves, and the way from each to the place times its weight (P, K, 3); weights of 0 fill rows up."""
    place_P3 = np.indices(shape, dtype=np.float64).reshape(3, -1).T[:, ::-1]  # x, y, z: column, row, channel
    vertices, weights, known = [], [], 0
    for octave in range(octaves):
        vertex_PK3, weight_PKD = near_vertices(place_P3 * 2**octave / period)
        _, number = np.unique(vertex_PK3.reshape(-1, 3), axis=0, return_inverse=True)
        vertices.append(number.reshape(vertex_PK3.shape[:2]) + known)
        weights.append(weight_PKD * persistence**octave)
        known += int(number.max()) + 1
    return np.concatenate(vertices, axis=1), np.concatenate(weights, axis=1).astype(np.float32)


def _count(shape: tuple[int, int, int], octaves: int, persistence: float, period: float) -> int:
    """How many vertices a table has."""
    return int(_table(shape, octaves, persistence, period)[0].max()) + 1


def near_vertices(place_P3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The honeycomb's vertices that reach each place.

    Args:
        place_P3: float64, in periods.

    Returns:
        Integer coordinates (P, K, 3) of vertices on the honeycomb, nearest first, and the ways (P, K, 3) from them to
        the place times ``(2 - d^2)^4 / 103``, which is 0 for those that fill up rows.
    """
    stretched_P3 = place_P3 - place_P3.sum(axis=1, keepdims=True) / 6
    offset_O3 = np.array(list(itertools.product(range(-2, 4), repeat=3)))
    vertex_PO3 = np.floor(stretched_P3).astype(np.int64)[:, None] + offset_O3
    way_PO3 = place_P3[:, None] - (vertex_PO3 + vertex_PO3.sum(axis=2, keepdims=True) / 3)
    reach_PO = np.clip(2 - (way_PO3**2).sum(axis=2), 0, None)
    order_PK = np.argsort(-reach_PO, axis=1, kind="stable")[:, : int((reach_PO > 0).sum(axis=1).max())]
    reach_PK, way_PKD = (
        np.take_along_axis(reach_PO, order_PK, 1),
        np.take_along_axis(way_PO3, order_PK[:, :, None], 1),
    )
    vertex_PK3 = np.take_along_axis(vertex_PO3, order_PK[:, :, None], 1)
    return vertex_PK3, way_PKD * (reach_PK**4 / _SCALE)[:, :, None]
