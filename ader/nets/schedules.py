"""Learning-rate factors as functions of a stage's progress in [0, 1)."""

from __future__ import annotations

import math

from ader.methods.base import Schedule


def step_at(share: float, factor: float = 0.1) -> Schedule:
    """1 until ``share`` of the stage is done, then ``factor``."""
    return lambda progress: 1.0 if progress < share else factor


def cosine(final: float = 0.0, warmup: float = 0.0, start: float = 0.0) -> Schedule:
    """Half a cosine from 1 to ``final``, after a linear rise from ``start`` over the first ``warmup`` share."""

    def factor(progress: float) -> float:
        whole = final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
        if progress < warmup:
            return start + (whole - start) * progress / warmup
        return whole

    return factor
