"""What a page draws of a run's image scores: how they are distributed, and their ROC curve, per category.

Letters: N images, B bars, P points of a curve.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ader.system.files import special

#: Bars of a histogram; points of a curve are left out while none is further than this from what is drawn.
BARS, OFF = 24, 0.002


def read_curves(folder: Path) -> dict[str, dict[str, Any]]:
    """Histogram and ROC curve of the image scores in ``scores.csv``, by category.

    Args:
        folder: of a run.

    Returns:
        By category: ``low`` and ``high``, between which the bars lie; ``good`` and ``bad``, images in each bar;
        ``roc``, x and y of one point after the other, in thousandths, empty where one kind of image is missing. Without
        categories whose scores are not finite; empty where there are no scores, or they are damaged: a page is no
        place to end for that.
    """
    file = folder / "scores.csv"
    if special(file):
        return {}
    scores: dict[str, tuple[list[float], list[bool]]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream)
            names = next(rows)
            places = [names.index(name) for name in ("category", "label", "score")]
            for row in rows:
                category, label, score = (row[place] for place in places)
                own = scores.setdefault(category, ([], []))
                own[0].append(float(score))
                own[1].append(bool(int(label)))
    except (OSError, ValueError, IndexError, StopIteration, csv.Error):
        return {}
    arrays = {name: (np.array(each[0]), np.array(each[1])) for name, each in scores.items()}
    return {name: curves(*both) for name, both in arrays.items() if np.isfinite(both[0]).all()}


def curves(score_N: npt.NDArray[np.float64], defective_N: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Of one category; see ``read_curves``."""
    low, high = float(score_N.min()), float(score_N.max())
    edges = np.linspace(low, high, BARS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    good, bad = (np.histogram(score_N[kind], edges)[0].tolist() for kind in (~defective_N, defective_N))
    points = thinned(roc(score_N, defective_N))
    return {
        "low": low,
        "high": high,
        "good": good,
        "bad": bad,
        "roc": np.rint(1000 * points).astype(int).ravel().tolist(),
    }


def roc(score_N: npt.NDArray[np.float64], defective_N: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """All points (false, true positive rate) from (0, 0) to (1, 1), equal scores as one step: P x 2."""
    if defective_N.all() or not defective_N.any():
        return np.zeros((0, 2))
    order = np.argsort(-score_N, kind="stable")
    score_N, defective_N = score_N[order], defective_N[order]
    last = np.append(np.flatnonzero(np.diff(score_N)), len(score_N) - 1)
    hits, alarms = np.cumsum(defective_N)[last], np.cumsum(~defective_N)[last]
    rates = np.stack([alarms / alarms[-1], hits / hits[-1]], axis=1)
    return np.concatenate([np.zeros((1, 2)), rates])


def thinned(point_P2: npt.NDArray[np.float64], off: float = OFF) -> npt.NDArray[np.float64]:
    """Without points that lie within ``off`` of the line between those that are kept (Douglas and Peucker 1973)."""
    if len(point_P2) < 3:
        return point_P2
    keep_P = np.zeros(len(point_P2), bool)
    keep_P[[0, -1]] = True
    spans = [(0, len(point_P2) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        along = point_P2[last] - point_P2[first]
        apart = point_P2[first + 1 : last] - point_P2[first]
        distance = np.abs(along[0] * apart[:, 1] - along[1] * apart[:, 0]) / max(float(np.hypot(*along)), 1e-12)
        furthest = int(distance.argmax())
        if distance[furthest] > off:
            middle = first + 1 + furthest
            keep_P[middle] = True
            spans += [(first, middle), (middle, last)]
    return point_P2[keep_P]
