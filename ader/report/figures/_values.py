"""What figures are made of: runs, or a paper's numbers, as the long table of ``statistics.values``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ader.metrics.definitions import find_metric
from ader.report.collection import Run
from ader.report.seeds import read_scores
from ader.report.statistics.values import name_epochs, published_values, values_of
from ader.system.errors import UserError


def one_metric(text: str) -> str:
    """A slug that was typed.

    Raises:
        UserError: there is no such metric.
    """
    return find_metric(text).slug


def scores_of(run: Run) -> pd.DataFrame:
    """The scores of a run's test images (``seeds.read_scores``), read once for all figures of a page: to be left as
    they are.

    Raises:
        UserError: the run is not finished.
    """
    file = run.folder / "scores.csv"
    return _scores(run.folder, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=512)
def _scores(folder: Path, changed: int) -> pd.DataFrame:
    return read_scores(folder)


def frame_of(
    runs: Sequence[Run], metrics: Sequence[str], published: str = "", where: str = "", study: str = ""
) -> pd.DataFrame:
    """Of runs, or of a paper where one is named.

    Raises:
        UserError: as for ``values_of`` and ``published_values``.
    """
    if published:
        frame = published_values(published, metrics, where)
        return frame if study else name_epochs(frame)
    return values_of(runs, metrics, study)


def means_of(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows with means over categories of one metric."""
    return frame[(frame["category"] == "mean") & (frame["metric"] == metric)]


def one_dataset(frame: pd.DataFrame, name: str) -> str:
    """The dataset that all values are of.

    Raises:
        UserError: they are of several.
    """
    datasets = list(dict.fromkeys(frame["dataset"]))
    if len(datasets) != 1:
        raise UserError(
            f"figure {name} is of one dataset, and there are {len(datasets)}: where='dataset={datasets[0]}'"
            if datasets
            else f"figure {name}: there are no values"
        )
    return str(datasets[0])


def is_defined(value: float) -> bool:
    """Neither NaN nor infinite."""
    return bool(np.isfinite(value))


def share(key: str, text: str) -> float:
    """A number between 0 and 1 that was typed.

    Raises:
        UserError: it is none.
    """
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise UserError(f"{key}={text} must be a number between 0 and 1")
    return found
