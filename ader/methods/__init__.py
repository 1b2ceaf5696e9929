"""Anomaly detection methods: one file per method, found by its file name."""

from ader.methods._base import Batch, FitPass, Method, Optimize, Prediction, Stage, Tags, TrainStage
from ader.methods._options import build

__all__ = ["Batch", "FitPass", "Method", "Optimize", "Prediction", "Stage", "Tags", "TrainStage", "build"]
