"""Do datasets agree? Pearson correlations between them (ADer Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ader.report.collection import Run
from ader.report.figures._style import COLUMN, PAGE, headline, heat_map, new_figure
from ader.report.figures._values import frame_of, one_metric
from ader.report.statistics.correlation import SEVEN, correlation


def draw(runs: Sequence[Run], *, metric: str = ",".join(SEVEN), published: str = "", where: str = "") -> Figure:
    """A heat map, datasets by datasets.

    Args:
        runs: on two datasets or more; of three methods, or of one whose metrics are correlated instead.
        metric: slugs, separated by commas.
        published: a paper in the place of runs, and of its rows those that ``where`` holds for.
    """
    metrics = [one_metric(slug) for slug in metric.split(",")]
    found, over = correlation(frame_of(runs, metrics, published, where))
    names, value_DD = [str(name) for name in found.index], found.to_numpy(np.float64)
    side = 0.36 * len(names) + 1.5
    width = min(PAGE, max(COLUMN, side + 0.5))
    figure = new_figure(width, side)
    axes = figure.add_subplot()
    known = value_DD[np.isfinite(value_DD)]
    low = float(np.floor(10 * known.min()) / 10)
    image = heat_map(axes, names, names, value_DD, low, 1.0, "{:.2f}")
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.outline.set_visible(False)
    headline(figure, f"Pearson correlation over {over}")
    return figure
