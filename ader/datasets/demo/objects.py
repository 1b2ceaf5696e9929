"""The demo dataset's scenes, part two: the three objects, and the list of all six categories."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ader.datasets.demo.painting import (
    Field,
    Point,
    blob,
    box,
    cover,
    crack,
    disc,
    line,
    noise,
    over,
    polygon,
    ramp,
    turned,
)
from ader.datasets.demo.textures import BLACK, WHITE, Fabric, Fault, Metal, Rng, Scene, Wood


class Bolt(Scene):
    """Hexagonal bolt head on a washer, seen from above on dark foam."""

    faults = ("chip", "missing_washer", "rust", "scratch")

    def draw(self, rng: Rng) -> Field:
        self.center, self.angle = self.spot(rng, 0.08), rng.uniform(0, 2 * np.pi)
        grain = 1 + 0.12 * noise(rng, self.size, (60, 60), 2) + 0.08 * noise(rng, self.size, (4, 4))
        self.foam = grain[..., None] * (0.13, 0.15, 0.18)
        shadow = cover(disc(self.x - 0.04, self.y - 0.05, self.center, 0.74), 14)
        self.foam_shaded = over(self.foam, 0.7 * shadow, BLACK)
        radius = np.hypot(self.x - self.center[0], self.y - self.center[1])
        around = np.arctan2(self.y - self.center[1], self.x - self.center[0])
        gloss = 0.10 * np.cos(2 * (around - rng.uniform(0.5, 0.9))) + 0.02 * np.sin(radius * 260)
        rim = 0.12 * ramp(radius, 0.66, 0.70)
        contact = 0.22 * cover(disc(self.x - 0.03, self.y - 0.03, self.center, 0.52), 16)
        gray = 0.58 + gloss - rim - contact + 0.012 * noise(rng, self.size, (40, 40))
        self.ring = np.asarray(gray[..., None] * (1.0, 0.99, 0.96))
        ring = cover(disc(self.x, self.y, self.center, 0.72))
        self.seat = over(self.foam_shaded, ring, self.ring)
        self.head = self._head(rng)
        self.hexagon = polygon(*turned(self.x, self.y, self.center, self.angle), 6, 0.44)
        return over(self.seat, cover(self.hexagon), self.head)

    def _head(self, rng: Rng) -> Field:
        x, y = turned(self.x, self.y, self.center, self.angle)
        radius = np.hypot(x, y)
        facet = np.round(np.arctan2(y, x) / (np.pi / 3)) * np.pi / 3 + self.angle
        bevel = 0.56 + 0.16 * np.cos(facet + 2.2)  # light from the upper left
        top = 0.66 + 0.04 * noise(rng, self.size, (3, 3)) + 0.012 * np.sin(radius * 300)
        gray = bevel + ramp(radius, 0.405, 0.385) * (top - bevel) - 0.10 * cover(abs(radius - 0.40) - 0.006)
        turns = [angle * 2 * np.pi / 3 for angle in range(3)]  # three radial bars mark a strength class
        bars = [((0.22 * np.cos(turn), 0.22 * np.sin(turn)), turn) for turn in turns]
        marks = np.minimum.reduce([box(*turned(x, y, at, turn), 0.10, 0.012) for at, turn in bars])
        gray = gray - 0.25 * cover(marks, 2) + 0.10 * cover(np.abs(marks - 0.014) - 0.003, 2)
        return np.asarray(gray[..., None] * (0.98, 1.0, 1.02))

    def chip(self, rng: Rng) -> Fault:
        corner = self.angle + np.pi / 6 + int(rng.integers(6)) * np.pi / 3
        far = 0.47
        at = (self.center[0] + far * np.cos(corner), self.center[1] + far * np.sin(corner))
        lost = np.maximum(blob(rng, self.size, at, rng.uniform(0.07, 0.13), 0.2), self.hexagon)
        opacity = cover(lost)
        edge = cover(np.abs(lost) - 0.006, 2) * cover(self.hexagon)
        return over(over(self.picture, opacity, self.seat * 0.72), 0.5 * edge, WHITE), np.maximum(opacity, edge)

    def missing_washer(self, rng: Rng) -> Fault:
        shadow = cover(disc(self.x - 0.05, self.y - 0.06, self.center, 0.46), 14)
        bare = over(self.foam, rng.uniform(0.6, 0.8) * shadow, BLACK)
        changed = over(bare, cover(self.hexagon), self.head)
        ring = np.minimum(cover(disc(self.x, self.y, self.center, 0.72)), 1 - cover(self.hexagon))
        cast = cover(disc(self.x - 0.04, self.y - 0.05, self.center, 0.74), 14) - cover(self.hexagon)
        return changed, np.maximum(ring, cast)

    def rust(self, rng: Rng) -> Fault:
        turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.62)
        at = (self.center[0] + far * np.cos(turn), self.center[1] + far * np.sin(turn))
        opacity = cover(blob(rng, self.size, at, rng.uniform(0.05, 0.11), 0.45), 4)
        opacity = opacity * cover(disc(self.x, self.y, self.center, 0.71))
        return over(self.picture, rng.uniform(0.55, 0.85) * opacity, (0.42, 0.25, 0.13)), opacity

    def scratch(self, rng: Rng) -> Fault:
        where = tuple(c + o for c, o in zip(self.center, self.spot(rng, 0.2), strict=True))
        opacity = self.line_at(rng, (where[0], where[1]), 0.2, 0.5) * cover(self.hexagon + 0.02)
        return over(self.picture, opacity, self.picture * rng.choice([0.55, 1.35])), opacity


class Capsule(Scene):
    """A two-colored capsule with a printed code on a light plate."""

    faults = ("crack", "misprint", "poke", "specks")

    def draw(self, rng: Rng) -> Field:
        self.center, self.angle = self.spot(rng, 0.08), rng.normal(0, 0.12)
        self.u, self.v = turned(self.x, self.y, self.center, self.angle)
        self.body = box(self.u, self.v, 0.72, 0.29, 0.29)
        plate = 0.80 + 0.012 * noise(rng, self.size, (40, 40), 2) + 0.015 * noise(rng, self.size, (3, 3))
        shadow = cover(box(self.u - 0.02, self.v - 0.07, 0.72, 0.29, 0.29), 22)
        ground = over(plate[..., None] * (1.0, 1.0, 0.98), 0.45 * shadow, (0.25, 0.25, 0.28))
        cap = cover(self.u + 0.04)  # the left part, pushed over the right one
        hue = 1 + rng.normal(0, 0.03, 3)
        color = over(np.full((*self.x.shape, 3), (0.88, 0.80, 0.62)) * hue, cap, np.multiply((0.62, 0.17, 0.14), hue))
        round_ = np.sqrt(np.clip(1 - (self.v / 0.31) ** 2, 0.05, 1))
        color = color * (0.45 + 0.55 * round_)[..., None]
        color = over(color, 0.45 * cover(abs(self.u + 0.035) - 0.007, 3), BLACK)
        gloss = cover(box(self.u, self.v + 0.13, 0.52, 0.025, 0.025), 9)
        self.shell = over(color, (0.45 + 0.05 * rng.standard_normal()) * gloss, WHITE)
        self.ink = (0.20, 0.16, 0.18)
        printed = over(self.shell, 0.85 * self._code(self.u, self.v), self.ink)
        return over(ground, cover(self.body), printed)

    def _code(self, u: Field, v: Field) -> Field:
        """Opacity of the print, a code of four signs made of strokes."""
        strokes = [
            *((0.14, 0.00, 0.010, 0.07), (0.21, -0.06, 0.035, 0.010), (0.21, 0.0, 0.035, 0.010)),
            *((0.25, -0.03, 0.010, 0.03), (0.33, 0.00, 0.010, 0.07), (0.36, 0.06, 0.040, 0.010)),
            *((0.48, 0.00, 0.045, 0.070), (0.21, 0.06, 0.035, 0.010), (0.18, 0.03, 0.010, 0.03)),
        ]
        solid = [cover(box(u - a, v - b - 0.03, c, d)) for a, b, c, d in strokes]
        hollow = cover(box(u - 0.48, v - 0.03, 0.026, 0.05))  # the inside of the last sign
        return np.asarray(np.maximum.reduce(solid) * (1 - hollow))

    def crack(self, rng: Rng) -> Fault:
        start = (rng.uniform(-0.5, 0.3), rng.uniform(-0.18, 0.0))
        at = turned(np.array(start[0]), np.array(start[1]), (0, 0), -self.angle)
        where = (self.center[0] + float(at[0]), self.center[1] + float(at[1]))
        opacity = crack(rng, self.size, where, rng.uniform(0.4, 2.6), rng.uniform(0.2, 0.45)) * cover(self.body + 0.02)
        return over(self.picture, 0.75 * opacity, (0.10, 0.06, 0.05)), opacity

    def misprint(self, rng: Rng) -> Fault:
        shift = (rng.uniform(-0.22, 0.03), rng.choice([-1, 1]) * rng.uniform(0.05, 0.10))
        u, v = turned(self.u - 0.3, self.v, shift, rng.normal(0, 0.15))
        wrong, right = self._code(u + 0.3, v), self._code(self.u, self.v)
        changed = over(self.shell, 0.85 * wrong, self.ink)
        return changed, np.maximum(wrong, right) * cover(self.body + 0.02)

    def poke(self, rng: Rng) -> Fault:
        u, v = rng.uniform(-0.55, 0.55), rng.uniform(-0.16, 0.16)
        hole = disc(self.u, self.v, (u, v), rng.uniform(0.025, 0.05))
        rim = cover(hole - 0.025, 4)
        return over(over(self.picture, 0.35 * rim, WHITE), cover(hole, 3), self.shell * 0.35), rim

    def specks(self, rng: Rng) -> Fault:
        opacity, where = np.zeros_like(self.x), (rng.uniform(-0.5, 0.5), rng.uniform(-0.12, 0.12))
        for _ in range(int(rng.integers(3, 7))):
            at = (where[0] + rng.normal(0, 0.08), where[1] + rng.normal(0, 0.05))
            opacity = np.maximum(opacity, cover(disc(self.u, self.v, at, rng.uniform(0.010, 0.028)), 2.5))
        opacity = opacity * cover(self.body + 0.02)
        return over(self.picture, 0.7 * opacity, (0.33, 0.30, 0.18)), opacity


class Circuit(Scene):
    """A green board with a chip, resistors, round capacitors and traces."""

    faults = ("bridge", "cut_trace", "misaligned", "missing_part")

    CHIP: ClassVar[Point] = (-0.15, -0.2)
    RESISTORS: ClassVar[tuple[Point, ...]] = ((0.58, -0.55), (0.58, -0.15), (0.58, 0.25))
    PINS: ClassVar[tuple[float, ...]] = (-0.30, -0.18, -0.06, 0.06, 0.18, 0.30)

    def draw(self, rng: Rng) -> Field:
        self.u, self.v = turned(self.x, self.y, self.spot(rng, 0.05), rng.normal(0, 0.025))
        grain = 1 + 0.03 * noise(rng, self.size, (60, 60), 2) + 0.03 * noise(rng, self.size, (3, 3))
        mask = grain[..., None] * np.multiply((0.07, 0.33, 0.20), 1 + rng.normal(0, 0.03, 3))
        self.trace_paths = self._traces()
        self.ground = mask
        copper = np.minimum.reduce([line(self.u, self.v, path) for path in self.trace_paths])
        board = over(mask, 0.9 * cover(copper - 0.014), mask * (2.2, 1.5, 1.5))
        self.board = over(board, cover(self._pads()), (0.80, 0.72, 0.45))
        tilt = rng.normal(0, 0.02, 4)
        picture = self._chip(self.board, tilt[0])
        for at, turn in zip(self.RESISTORS, tilt[1:], strict=True):
            picture = self._resistor(picture, at, turn)
        for x, y in ((-0.55, 0.62), (0.02, 0.62)):  # where the lower trace begins
            u, v = self.u - x, self.v - y
            picture = over(picture, cover(disc(u, v, (0.02, 0.03), 0.16), 8), (0.02, 0.09, 0.06))
            picture = over(picture, cover(disc(u, v, (0, 0), 0.15)), (0.72, 0.73, 0.76))
            picture = over(picture, cover(np.maximum(disc(u, v, (0, 0), 0.15), u + 0.07)), (0.16, 0.17, 0.22))
            picture = over(picture, 0.35 * cover(abs(disc(u, v, (0, 0), 0.125)) - 0.006, 2), BLACK)
        return picture

    def _traces(self) -> list[list[Point]]:
        cx, cy = self.CHIP
        rows = [cy + pin for pin in self.PINS]
        right = [
            [(cx + 0.3, y), (0.28 + i * 0.02, y), (0.38, r), (0.46, r)]
            for i, (y, r) in enumerate(zip(rows[::2], (-0.55, -0.15, 0.25), strict=True))
        ]
        left = [[(cx - 0.3, y), (-0.72 - 0.04 * i, y), (-0.72 - 0.04 * i, 0.45)] for i, y in enumerate(rows[3:])]
        lower = [[(-0.55, 0.62), (0.02, 0.62), (0.3, 0.62), (0.7, 0.62), (0.7, 0.25)]]
        return right + left + lower

    def _pads(self) -> Field:
        ends = [(x + side * 0.12, y) for x, y in self.RESISTORS for side in (-1, 1)]
        vias = [
            (-0.72, 0.45),
            (-0.76, 0.45),
            (-0.80, 0.45),
            (0.3, 0.62),
            (0.7, 0.62),
            (-0.8, -0.8),
            (0.82, 0.84),
        ]
        pads = [box(self.u - x, self.v - y, 0.05, 0.07, 0.01) for x, y in ends]
        return np.asarray(np.minimum.reduce(pads + [disc(self.u, self.v, at, 0.028) for at in vias]))

    def _chip(self, picture: Field, turn: float) -> Field:
        u, v = turned(self.u, self.v, self.CHIP, turn)
        legs = np.minimum.reduce([box(abs(u) - 0.29, v - pin, 0.06, 0.026) for pin in self.PINS])
        picture = over(picture, cover(legs), (0.74, 0.75, 0.76))
        body = box(u, v, 0.25, 0.38, 0.015)
        picture = over(picture, cover(body), (0.10, 0.10, 0.11))
        picture = over(picture, 0.5 * cover(abs(body + 0.012) - 0.005, 2), (0.32, 0.32, 0.33))
        text = [box(u - 0.02, v - row, half, 0.012) for row, half in ((-0.05, 0.15), (0.02, 0.11), (0.09, 0.13))]
        text.append(disc(u, v, (-0.18, -0.31), 0.03))
        return over(picture, 0.6 * cover(np.minimum.reduce(text)), (0.62, 0.62, 0.62))

    def _resistor(self, picture: Field, at: Point, turn: float) -> Field:
        u, v = turned(self.u, self.v, at, turn)
        picture = over(picture, cover(box(u, v, 0.13, 0.055, 0.008)), (0.78, 0.78, 0.79))
        picture = over(picture, cover(box(u, v, 0.085, 0.055)), (0.13, 0.12, 0.13))
        marks = np.minimum.reduce([box(u - dx, v, 0.011, 0.022) for dx in (-0.04, 0.0, 0.04)])
        return over(picture, 0.8 * cover(marks), (0.85, 0.85, 0.85))

    def bridge(self, rng: Rng) -> Fault:
        gap = int(rng.integers(len(self.PINS) - 1))
        u = self.CHIP[0] + rng.choice([-1, 1]) * rng.uniform(0.29, 0.32)
        v = self.CHIP[1] + (self.PINS[gap] + self.PINS[gap + 1]) / 2
        shape = box(self.u - u, self.v - v, rng.uniform(0.02, 0.03), 0.065, 0.02)
        solder = shape + 0.006 * noise(rng, self.size, (40, 40))
        shine = cover(disc(self.u, self.v, (u - 0.008, v - 0.015), 0.008), 3)
        return over(over(self.picture, cover(solder, 2), (0.66, 0.67, 0.68)), shine, WHITE), cover(solder, 2)

    def cut_trace(self, rng: Rng) -> Fault:
        path = self.trace_paths[int(rng.integers(len(self.trace_paths)))]
        (ax, ay), (bx, by) = path[1], path[2]
        part = rng.uniform(0.3, 0.7)
        at = (ax + part * (bx - ax), ay + part * (by - ay))
        near = cover(disc(self.u, self.v, at, rng.uniform(0.035, 0.06)), 2)
        copper = cover(line(self.u, self.v, path) - 0.022)
        return over(self.picture, near, self.ground * 0.85), near * copper

    def misaligned(self, rng: Rng) -> Fault:
        which = int(rng.integers(3))
        turn = rng.choice([-1, 1]) * rng.uniform(0.25, 0.6)
        x, y = self.RESISTORS[which]
        moved = (x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.05, 0.05))
        old = box(self.u - x, self.v - y, 0.14, 0.065)
        new = box(*turned(self.u, self.v, moved, turn), 0.14, 0.065)
        bare = over(self.picture, cover(old - 0.01), self.board)
        return self._resistor(bare, moved, turn), np.maximum(cover(old), cover(new))

    def missing_part(self, rng: Rng) -> Fault:
        x, y = self.RESISTORS[int(rng.integers(3))]
        opacity = cover(box(self.u - x, self.v - y, 0.14, 0.065))
        return over(self.picture, cover(box(self.u - x, self.v - y, 0.15, 0.075)), self.board), opacity


SCENES: dict[str, type[Scene]] = {
    "fabric": Fabric,
    "metal": Metal,
    "wood": Wood,
    "bolt": Bolt,
    "capsule": Capsule,
    "circuit": Circuit,
}
