"""Maps and masks as callers have them: arrays or tensors, stacked where their sizes are equal, lists where not.

Letters: B images, H rows, W columns (pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

Planes = Tensor | list[Tensor]  # (B, H, W), or a list of (H, W) where their sizes differ


def equal_runs(planes: Sequence[Planes], count: int, most: Callable[[Sequence[torch.Size]], int]) -> Iterator[slice]:
    """Neighbors of equal size, which can be stacked.

    Args:
        planes: maps, masks, or both; of so many images.
        count: images.
        most: how many may go together, given the sizes of one image's planes.
    """
    for shapes, numbers in groupby(range(count), key=lambda number: [each[number].shape for each in planes]):
        positions, together = list(numbers), most(shapes)
        for start in range(positions[0], positions[-1] + 1, together):
            yield slice(start, min(start + together, positions[-1] + 1))


def stacked(planes: Planes) -> Tensor:
    """Planes of one size as (B, H, W)."""
    return planes if isinstance(planes, Tensor) else torch.stack(planes)


def as_tensor(given: Any) -> Tensor:
    """A tensor of anything array-like; Python floats become float64. Read-only arrays are copied."""
    if isinstance(given, Tensor):
        return given.detach()
    return torch.from_numpy(np.require(given, requirements=["C", "W"]))
