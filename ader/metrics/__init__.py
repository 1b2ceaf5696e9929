"""Metrics of visual anomaly detection: one pass, any batch, any order, with certified error bounds.

``Evaluator`` is the mergeable state, ``evaluate`` the one-call form; both are loaded when first asked for, so
that the names in ``ader.metrics.names`` can be listed without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ader.metrics.names import (
    AVERAGES,
    IMAGE_METRICS,
    METRICS,
    OBJECT_METRICS,
    PIXEL_METRICS,
    PROFILES,
    SLUGS,
    Metric,
    metric,
)

if TYPE_CHECKING:
    from ader.metrics.evaluator import Evaluator, evaluate

__all__ = [
    "AVERAGES",
    "IMAGE_METRICS",
    "METRICS",
    "OBJECT_METRICS",
    "PIXEL_METRICS",
    "PROFILES",
    "SLUGS",
    "Evaluator",
    "Metric",
    "evaluate",
    "metric",
]


def __getattr__(name: str) -> Any:
    if name in ("Evaluator", "evaluate"):
        return getattr(importlib.import_module("ader.metrics.evaluator"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
