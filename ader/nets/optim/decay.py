"""Which parameters weight decay takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def decay_groups(weights: Iterable[nn.Parameter], matrices: float, vectors: float = 0.0) -> list[dict[str, Any]]:
    """Two groups for an optimizer: matrices and kernels, then biases and norms, each with its weight decay."""
    weights = list(weights)
    return [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": matrices},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": vectors},
    ]
