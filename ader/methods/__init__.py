"""Anomaly detection methods: one file per method, found by its file name."""

from ader.methods._base import (
    Batch,
    Count,
    FitPass,
    Method,
    NonNegative,
    Optimize,
    Positive,
    Prediction,
    Probability,
    Share,
    Stage,
    Tags,
    TrainStage,
)
from ader.methods._options import build

__all__ = [
    "Batch",
    "Count",
    "FitPass",
    "Method",
    "NonNegative",
    "Optimize",
    "Positive",
    "Prediction",
    "Probability",
    "Share",
    "Stage",
    "Tags",
    "TrainStage",
    "build",
]
