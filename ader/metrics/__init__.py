"""Metrics of visual anomaly detection: one pass, any batch, any order, with certified error bounds.

``Evaluator`` is the mergeable state, ``evaluate`` the one-call form, ``chance`` what random scores reach. They are
loaded when first asked for, so that the metrics (``ader.metrics.definitions``) can be listed without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ader.metrics.definitions import (
    AVERAGES,
    IMAGE_METRICS,
    KINDS,
    METRICS,
    OBJECT_METRICS,
    PIXEL_METRICS,
    SLUGS,
    Metric,
    find_metric,
)

if TYPE_CHECKING:
    from ader.metrics.chance_level import chance
    from ader.metrics.evaluator import Evaluator
    from ader.metrics.in_memory import evaluate

__all__ = [
    "AVERAGES",
    "IMAGE_METRICS",
    "KINDS",
    "METRICS",
    "OBJECT_METRICS",
    "PIXEL_METRICS",
    "SLUGS",
    "Evaluator",
    "Metric",
    "chance",
    "evaluate",
    "find_metric",
]

_DEFERRED = {"Evaluator": "evaluator", "evaluate": "in_memory", "chance": "chance_level"}


def __getattr__(name: str) -> Any:
    if name not in _DEFERRED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"ader.metrics.{_DEFERRED[name]}"), name)
