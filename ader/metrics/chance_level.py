"""What random scores reach: the row to compare a table with."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ader.metrics.definitions import AVERAGES, METRICS


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
    row: dict[str, float] = {}
    for metric in METRICS:
        if metric.group in shares:
            mixed = [float(share) for share in shares[metric.group] if 0 < share < 1]
            level = metric.chance if mixed else None  # of one kind alone no metric is defined
            if callable(level):
                level = float(np.mean([level(share) for share in mixed]))
            row[metric.slug] = math.nan if level is None else level
    for slug, components in AVERAGES.items():
        row[slug] = float(np.mean([row.get(each, math.nan) for each in components]))
    series: pd.Series[float] = pd.Series(row, name="chance", dtype=float)
    return series
