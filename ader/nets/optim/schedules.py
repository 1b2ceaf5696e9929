"""Learning-rate factors as functions of a stage's progress in [0, 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

#: A pure function of the progress, so that resuming needs no state.
Schedule = Callable[[float], float]


def step_at(share: float, factor: float = 0.1) -> Schedule:
    """1 until ``share`` of the stage is done, then ``factor``."""
    return steps_at([share], factor)


def steps_at(shares: Sequence[float], factor: float = 0.1) -> Schedule:
    """``factor`` to the power of how many of ``shares`` of the stage are done."""
    return lambda progress: factor ** sum(progress >= share for share in shares)


def cosine(final: float = 0.0, warmup: float = 0.0, start: float = 0.0) -> Schedule:
    """A linear rise from ``start`` to 1 over the first ``warmup`` share, then half a cosine from 1 to ``final``."""

    def factor(progress: float) -> float:
        if progress < warmup:
            return start + (1 - start) * progress / warmup
        return final + (1 - final) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2

    return factor
