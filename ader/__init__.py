"""ader: a benchmark runner for visual anomaly detection.

Read ``ader/runs/run.py`` first: it is the whole flow. ``ader.metrics``, ``ader.data`` and ``ader.methods`` can each be
used on their own; ``ader.load`` opens a finished run to score images with its model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ader.system.version import VERSION as __version__

if TYPE_CHECKING:  # brings torch
    from pathlib import Path

    from ader.runs.predictor import Predictor

__all__ = ["__version__", "load"]


def load(run: str | Path, device: str | None = None, batch_size: int | None = None) -> Predictor:
    """A finished run's model, ready to score images: ``ader.load(RUN).predict(paths)``.

    Args:
        run: the run's folder.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``; None: as the run was configured.
        batch_size: images that are scored together; None: as the run was configured.

    Raises:
        UserError: it is no finished run, or its checkpoint is not the one that its record knows.
    """
    from ader.runs.predictor import open_predictor

    words = {"trainer.device": device, "trainer.test_batch_size": batch_size}
    return open_predictor(run, [f"{key}={value}" for key, value in words.items() if value is not None])
