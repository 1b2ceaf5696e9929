"""Anomaly detection methods: one file per method, found by its file name."""

from ader.methods._base import Batch, Descent, Method, Minimise, Pass, Prediction, Stage, Tags, build

__all__ = ["Batch", "Descent", "Method", "Minimise", "Pass", "Prediction", "Stage", "Tags", "build"]
