"""A metric per category and method: where does a method fail?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ader.metrics.definitions import find_metric
from ader.report.collection import Run
from ader.report.figures._style import COLUMN, PAGE, headline, heat_map, label, new_figure
from ader.report.figures._values import frame_of, one_dataset, one_metric
from ader.report.statistics.values import whole_mean
from ader.system.errors import UserError


def draw(runs: Sequence[Run], *, metric: str = "image_auroc", published: str = "", where: str = "") -> Figure:
    """A heat map, methods by categories, means over seeds; the best method stands first.

    Args:
        runs: on one dataset.
        metric: slug.
        published: a paper in the place of runs, and of its rows those that ``where`` holds for.
    """
    said = find_metric(one_metric(metric))
    frame = frame_of(runs, [metric], published, where)
    dataset = one_dataset(frame, "categories")
    table = frame.pivot_table(
        index="contender",
        columns="category",
        values="value",
        aggfunc=whole_mean,
        sort=False,
        dropna=False,
    )
    names = [name for name in table.columns if name != "mean"]
    if not names:
        raise UserError(f"figure categories: {dataset} has no values per category")
    # a mean over fewer categories than others have would not be what it says
    table["mean"] = table[names].mean(axis=1, skipna=False)
    order = table["mean"].fillna(table[names].mean(axis=1)).sort_values(ascending=not said.higher_is_better)
    table = table.loc[order.index, [*names, "mean"]]
    value_MC = 100 * table.to_numpy(np.float64)
    if not np.isfinite(value_MC).any():
        raise UserError(f"figure categories: {metric} is undefined for all of {dataset}")
    return _drawn(table, value_MC, f"{dataset}: {said.heading} (percent)")


def _drawn(table: pd.DataFrame, value_MC: np.ndarray[tuple[int, ...], np.dtype[np.float64]], title: str) -> Figure:
    """Cells of one size, as wide as their numbers, on a column or a page."""
    methods, categories = value_MC.shape
    longest = 0.062 * max(len(label(str(name), 24)) for name in table.index)
    wanted = longest + 0.27 * categories + 0.75
    width = COLUMN if wanted <= COLUMN else min(PAGE, wanted)
    cell = (width - longest - 0.75) / categories
    below = 0.062 * max(len(label(str(name), 24)) for name in table.columns)
    figure = new_figure(width, max(1.5, 0.17 * methods + below + 0.5))
    axes = figure.add_subplot()
    known = value_MC[np.isfinite(value_MC)]
    low, high = float(known.min()), float(known.max())
    image = heat_map(
        axes, [str(n) for n in table.index], [str(n) for n in table.columns], value_MC, low, high, numbers=cell >= 0.2
    )
    axes.axvline(categories - 1.5, color="white", linewidth=2)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    headline(figure, title)
    return figure
