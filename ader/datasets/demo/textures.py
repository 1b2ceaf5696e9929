"""The demo dataset's scenes, part one: what a scene is, and the three textures.

A scene is drawn once from a random generator (pose, colors, texture). Each of its faults returns a changed
picture and the opacity of the change; below ``FAINT`` the normal picture is kept, so that masks are exact.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ader.datasets.demo.painting import (
    Field,
    Point,
    blob,
    coordinates,
    cover,
    disc,
    line,
    noise,
    over,
    ramp,
    scratch,
    turned,
    walk,
)

Rng = np.random.Generator
Fault = tuple[Field, Field]  # changed picture (H, W, 3), opacity of the change (H, W)

FAINT = 0.12
BLACK = (0.0, 0.0, 0.0)
WHITE = (1.0, 1.0, 1.0)


class Scene:
    """One normal scene, ``picture`` (size, size, 3); ``faults`` names its methods ``(rng) -> Fault``."""

    faults: ClassVar[tuple[str, ...]]

    def __init__(self, rng: Rng, size: int) -> None:
        self.size = size
        self.x, self.y = coordinates(size)
        self.picture = self.draw(rng)

    def draw(self, rng: Rng) -> Field:
        raise NotImplementedError

    def fault(self, name: str, rng: Rng) -> tuple[Field, Field]:
        """The picture with a fault (size, size, 3), and its mask (size, size) bool."""
        changed, opacity = getattr(self, name)(rng)
        mask = opacity > FAINT
        return np.where(mask[..., None], changed, self.picture), mask

    def spot(self, rng: Rng, reach: float) -> Point:
        """A place at most ``reach`` from the middle in x and in y."""
        return rng.uniform(-reach, reach), rng.uniform(-reach, reach)

    def line_at(self, rng: Rng, where: Point, low: float, high: float) -> Field:
        """Opacity of a scratch of any direction."""
        return scratch(rng, self.size, where, rng.uniform(0, np.pi), rng.uniform(low, high))


class Fabric(Scene):
    """Plain weave of warp and weft threads in two tones."""

    faults = ("hole", "stain", "thread")

    def draw(self, rng: Rng) -> Field:
        x, y = turned(self.x, self.y, self.spot(rng, 0.05), rng.normal(0, 0.03))
        u = 13 * x + 0.22 * noise(rng, self.size, (5, 5), 2) + 40
        v = 13 * y + 0.22 * noise(rng, self.size, (5, 5), 2) + 40
        tone = rng.normal(1, 0.05, (2, 80))
        warp, weft = (np.sin(np.pi * (t % 1)) ** 0.6 for t in (u, v))
        on_top = (np.floor(u) + np.floor(v)) % 2
        warp_light = (0.35 + 0.65 * warp) * (0.7 + 0.3 * weft) * tone[0][np.floor(u).astype(int)]
        weft_light = (0.35 + 0.65 * weft) * (0.7 + 0.3 * warp) * tone[1][np.floor(v).astype(int)]
        fiber = 1 + 0.05 * noise(rng, self.size, (110, 110))
        woven = over(warp_light[..., None] * (0.40, 0.47, 0.58), 1 - on_top, weft_light[..., None] * (0.60, 0.62, 0.63))
        return woven * fiber[..., None]

    def hole(self, rng: Rng) -> Fault:
        distance = blob(rng, self.size, self.spot(rng, 0.75), rng.uniform(0.05, 0.12), 0.35)
        inside, rim = cover(distance, 2.5), cover(distance - 0.03, 4)
        frayed = over(self.picture, 0.4 * rim, (0.70, 0.70, 0.70))
        return over(frayed, inside, (0.07, 0.06, 0.06)), rim

    def stain(self, rng: Rng) -> Fault:
        opacity = cover(blob(rng, self.size, self.spot(rng, 0.65), rng.uniform(0.12, 0.25)), 8)
        return over(self.picture, opacity * rng.uniform(0.5, 0.8), self.picture * (0.78, 0.68, 0.52)), opacity

    def thread(self, rng: Rng) -> Fault:
        points = walk(rng, self.spot(rng, 0.5), rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0), 0.35)
        body = cover(line(self.x, self.y, points) - 0.012)
        shadow = cover(line(self.x - 0.015, self.y - 0.02, points) - 0.012, 4)
        shaded = over(self.picture, 0.55 * shadow, BLACK)
        color = ((0.78, 0.72, 0.58), (0.62, 0.24, 0.22))[int(rng.integers(2))]
        return over(shaded, body, color), np.maximum(body, shadow)


class Wood(Scene):
    """A planed board with vertical grain, pores and at times a small knot."""

    faults = ("drill", "scratch", "stain")

    def draw(self, rng: Rng) -> Field:
        knot = self.spot(rng, 1.6)  # often outside of the picture
        bulge = 0.5 * np.exp(-((self.x - knot[0]) ** 2 / 0.05 + (self.y - knot[1]) ** 2 / 0.12))
        rings = 9 * self.x + 0.55 * noise(rng, self.size, (3, 2), 2) + 5 * bulge + rng.uniform(0, 9)
        grain = 0.5 + 0.5 * np.sin(2 * np.pi * rings * rng.uniform(0.42, 0.52)) ** 3
        fiber = noise(rng, self.size, (110, 5), 2)
        pores = ramp(noise(rng, self.size, (120, 14)), 1.5, 2.6)
        wood = over(np.full((*self.x.shape, 3), (0.76, 0.57, 0.37)), 0.75 * grain, (0.60, 0.40, 0.23))
        wood = wood * (1 + 0.035 * fiber + 0.05 * noise(rng, self.size, (3, 2)))[..., None]
        return over(wood, 0.45 * pores, (0.30, 0.18, 0.10))

    def drill(self, rng: Rng) -> Fault:
        picture, opacity, where = self.picture, np.zeros_like(self.x), self.spot(rng, 0.7)
        for _ in range(int(rng.integers(1, 4))):
            hole = disc(self.x, self.y, where, rng.uniform(0.025, 0.055))
            picture = over(
                over(picture, 0.6 * cover(hole - 0.015, 3), (0.88, 0.72, 0.50)),
                cover(hole),
                (0.14, 0.08, 0.05),
            )
            opacity = np.maximum(opacity, cover(hole - 0.015, 3))
            where = (where[0] + rng.normal(0, 0.12), where[1] + rng.normal(0, 0.12))
        return picture, opacity

    def scratch(self, rng: Rng) -> Fault:
        opacity = self.line_at(rng, self.spot(rng, 0.5), 0.4, 1.0)
        return over(self.picture, opacity, self.picture * rng.uniform(1.18, 1.35) + 0.04), opacity

    def stain(self, rng: Rng) -> Fault:
        distance = blob(rng, self.size, self.spot(rng, 0.6), rng.uniform(0.12, 0.28), 0.18)
        inside, edge = cover(distance, 3), cover(abs(distance) - 0.012, 4)
        wet = over(self.picture, inside * rng.uniform(0.5, 0.9), self.picture * (0.80, 0.76, 0.74))
        return over(wet, 0.35 * edge, self.picture * 0.6), np.maximum(inside, edge)


class Metal(Scene):
    """Brushed steel sheet with a soft reflection."""

    faults = ("dent", "rust", "scratch")

    def draw(self, rng: Rng) -> Field:
        brushed = 0.05 * noise(rng, self.size, (3, 120), 2) + 0.025 * noise(rng, self.size, (24, 200))
        shine = 0.10 * np.exp(-(((self.y - rng.uniform(-0.7, 0.7)) / rng.uniform(0.35, 0.6)) ** 2))
        gray = 0.52 + brushed + shine + 0.025 * noise(rng, self.size, (2, 2))
        return gray[..., None] * (0.97, 1.0, 1.03)

    def dent(self, rng: Rng) -> Fault:
        center, radius = self.spot(rng, 0.7), rng.uniform(0.06, 0.13)
        x, y = turned(self.x, self.y, center, rng.uniform(-0.5, 0.5))
        x, y = x / radius, y / (radius * rng.uniform(0.7, 1.0))
        bowl = np.clip(1 - x**2 - y**2, 0, 1)
        slope = y * np.sqrt(bowl) * rng.uniform(0.3, 0.55)  # lit from above: upper wall dark, lower wall bright
        return self.picture + slope[..., None] - 0.05 * bowl[..., None], 4 * bowl

    def rust(self, rng: Rng) -> Fault:
        center, radius = self.spot(rng, 0.75), rng.uniform(0.07, 0.16)
        grains = noise(rng, self.size, (30, 30), 2) + 1.6 * (
            1 - np.hypot(self.x - center[0], self.y - center[1]) / radius
        )
        patches = np.maximum(ramp(grains, 0.3, 1.4), cover(disc(self.x, self.y, center, 0.35 * radius), 4))
        opacity = patches * cover(disc(self.x, self.y, center, radius * 1.4), 6)
        mottled = (
            np.full((*self.x.shape, 3), (0.45, 0.27, 0.15)) * (1 + 0.15 * noise(rng, self.size, (60, 60)))[..., None]
        )
        return over(self.picture, 0.85 * opacity, mottled), opacity

    def scratch(self, rng: Rng) -> Fault:
        # steep to the brushing, else it would be lost in it
        angle, where = rng.uniform(0.35, np.pi - 0.35), self.spot(rng, 0.5)
        opacity = scratch(rng, self.size, where, angle, rng.uniform(0.3, 0.9))
        return over(self.picture, 0.8 * opacity, self.picture * rng.choice([0.62, 1.45])), opacity
