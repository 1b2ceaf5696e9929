"""What random scores reach: the row to compare a table with."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ader.metrics.definitions import AVERAGES, METRICS, Metric


def chance(counts: pd.DataFrame) -> pd.Series[float]:
    """The expected value of each metric for random scores of many images, averaged over categories.

    Args:
        counts: `Evaluator.counts`; of its columns ``normal``, ``defective`` (images) and ``normal_pixels``,
            ``defective_pixels``.

    Returns:
        Fractions by slug; NaN where no category has both kinds, and where no expectation is known. An average has
        one if all its components have.
    """
    image = counts["defective"] / (counts["normal"] + counts["defective"])
    pixel = counts["defective_pixels"] / (counts["normal_pixels"] + counts["defective_pixels"])
    shares = {"image": image, "pixel": pixel}
    row = {metric.slug: _expected(metric, shares[metric.group]) for metric in METRICS if metric.group in shares}
    for slug, components in AVERAGES.items():
        row[slug] = float(np.mean([row.get(each, math.nan) for each in components]))
    series: pd.Series[float] = pd.Series(row, name="chance", dtype=float)
    return series


def _expected(metric: Metric, share: pd.Series[float]) -> float:
    """Mean over the categories that have defective and normal ones, given the share of defective ones in each."""
    shares = [float(each) for each in share if 0 < each < 1]
    if metric.chance is None or not shares:
        return math.nan
    return float(np.mean([metric.chance(each) for each in shares])) if callable(metric.chance) else metric.chance
