"""Procedural drawing for the demo dataset: noise, shapes with soft edges, surface defects. Numpy only.

Legend: fields are float64 (H, W), pictures float64 (H, W, 3) in [0, 1], coordinates run from -1 to 1 (x to
the right, y down). Float64 so that differences of the last bit between machines vanish in 8-bit rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]
Color = Sequence[float] | Field
Point = tuple[float, float]


def coordinates(size: int) -> tuple[Field, Field]:
    """x and y of the pixel centers, each (size, size)."""
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    return np.tile(axis, (size, 1)), np.tile(axis[:, None], (1, size))


def turned(x: Field, y: Field, center: Point, angle: float) -> tuple[Field, Field]:
    """Coordinates in a frame with its origin at ``center``, turned by ``angle`` (radians)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * (x - center[0]) + sin * (y - center[1]), cos * (y - center[1]) - sin * (x - center[0])


def noise(rng: np.random.Generator, size: int, cells: tuple[int, int], octaves: int = 1) -> Field:
    """Smooth value noise, mean near 0 and deviation near 1; ``cells`` = random values across (x, y)."""
    total, weight, power = np.zeros((size, size)), 1.0, 0.0
    for octave in range(octaves):
        count_x, count_y = (min(size, cell << octave) for cell in cells)
        values = rng.standard_normal((count_y + 3, count_x + 3))
        total += weight * _stretch(_stretch(values, size).T, size).T
        power += weight**2
        weight *= 0.55
    return np.asarray(total * (1.9 / np.sqrt(power)))


def _stretch(values: Field, size: int) -> Field:
    """Uniform cubic B-spline through the rows: (cells + 3, width) to (size, width).

    Sums of four rows instead of a matrix product, whose rounding would depend on the machine's library.
    """
    position = (np.arange(size) + 0.5) * (len(values) - 3) / size
    start = np.floor(position).astype(int)
    t = (position - start)[:, None]
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return np.asarray(sum(weight / 6 * values[start + row] for row, weight in enumerate(basis)))


def ramp(value: Field, low: float, high: float) -> Field:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def cover(distance: Field, soft: float = 1.5) -> Field:
    """How much of each pixel a shape covers, from its signed distance; the edge is ``soft`` pixels wide."""
    width = soft * 2 / distance.shape[0]
    return np.asarray(np.clip(0.5 - distance / width, 0, 1))


def box(x: Field, y: Field, half_x: float, half_y: float, corner: float = 0.0) -> Field:
    """Signed distance to a box around the origin with rounded corners."""
    dx, dy = abs(x) - half_x + corner, abs(y) - half_y + corner
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return np.asarray(outside + np.minimum(np.maximum(dx, dy), 0) - corner)


def disc(x: Field, y: Field, center: Point, radius: float) -> Field:
    """Signed distance to a disc."""
    return np.asarray(np.hypot(x - center[0], y - center[1]) - radius)


def polygon(x: Field, y: Field, sides: int, inner: float) -> Field:
    """Signed distance (near the border) to a regular polygon around the origin of inner radius ``inner``."""
    angles = np.arange(sides) * 2 * np.pi / sides
    return np.asarray(np.max([np.cos(angle) * x + np.sin(angle) * y for angle in angles], axis=0) - inner)


def line(x: Field, y: Field, points: Sequence[Point]) -> Field:
    """Distance to a chain of straight pieces."""
    nearest = np.full(x.shape, np.inf)
    for (ax, ay), (bx, by) in pairwise(points):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + 1e-12), 0, 1)
        nearest = np.minimum(nearest, (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2)
    return np.asarray(np.sqrt(nearest))


def walk(rng: np.random.Generator, start: Point, angle: float, length: float, wobble: float) -> list[Point]:
    """Points of a wandering line: nearly straight for a small ``wobble`` (radians per step), else jagged."""
    points, steps = [start], max(3, round(length / 0.06))
    for _ in range(steps):
        heading = angle + rng.normal(0, wobble)
        x, y = points[-1]
        points.append((x + np.cos(heading) * length / steps, y + np.sin(heading) * length / steps))
    return points


def over(picture: Field, alpha: Field, color: Color) -> Field:
    """``picture`` with ``color`` (a triple or a picture) laid over it at opacity ``alpha``."""
    return picture + alpha[..., None] * (np.asarray(color) - picture)


def blob(rng: np.random.Generator, size: int, center: Point, radius: float, rough: float = 0.25) -> Field:
    """Signed distance (roughly) to an irregular spot."""
    x, y = coordinates(size)
    stretch = rng.uniform(0.75, 1.3)
    x, y = turned(x, y, center, rng.uniform(0, np.pi))
    cells = max(3, round(1.4 / radius))
    swell = np.clip(1 + rough * noise(rng, size, (cells, cells), 2), 0.5, 1.6)  # never vanishes
    return np.asarray(np.hypot(x * stretch, y / stretch) - radius * swell)


def crack(rng: np.random.Generator, size: int, start: Point, angle: float, length: float) -> Field:
    """Opacity of a jagged crack with one branch, thinning towards its end."""
    x, y = coordinates(size)
    trunk = walk(rng, start, angle, length, 0.55)
    fork = trunk[len(trunk) // 2]
    branch = walk(rng, fork, angle + rng.choice([-0.9, 0.9]), length * 0.4, 0.5)
    width = 0.004 + 0.012 * np.clip(1 - np.hypot(x - start[0], y - start[1]) / length, 0, 1)
    return np.maximum(cover(line(x, y, trunk) - width), 0.8 * cover(line(x, y, branch) - 0.006))


def scratch(rng: np.random.Generator, size: int, center: Point, angle: float, length: float) -> Field:
    """Opacity of a nearly straight scratch whose depth varies along its way."""
    x, y = coordinates(size)
    start = (center[0] - np.cos(angle) * length / 2, center[1] - np.sin(angle) * length / 2)
    depth = 0.75 + 0.25 * np.tanh(noise(rng, size, (10, 10)))
    return cover(line(x, y, walk(rng, start, angle, length, 0.12)) - 0.009) * depth
