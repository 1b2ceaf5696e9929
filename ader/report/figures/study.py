"""A metric against what was varied: the number of epochs, or the image size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from ader.metrics.definitions import find_metric
from ader.report.collection import Run
from ader.report.figures._style import COLUMN, headline, legend_below, look, new_figure, percent
from ader.report.figures._values import frame_of, means_of, one_dataset, one_metric
from ader.report.statistics.spread import by_study


def draw(runs: Sequence[Run], *, metric: str = "mad", published: str = "", where: str = "") -> Figure:
    """Against epochs: has training converged?

    Args:
        runs: on one dataset, of methods that were trained for two numbers of epochs or more.
        metric: slug.
        published: a paper in the place of runs, and of its rows those that ``where`` holds for.
    """
    return _draw(runs, metric, "epochs", "epochs", published, where)


def draw_resolution(runs: Sequence[Run], *, metric: str = "mad") -> Figure:
    """Against the image size: does more detail help?

    Args:
        runs: on one dataset, of methods that were trained at two sizes or more.
        metric: slug.
    """
    return _draw(runs, metric, "image_size", "image size (pixels)", "", "")


def _draw(runs: Sequence[Run], metric: str, study: str, axis: str, published: str, where: str) -> Figure:
    said = find_metric(one_metric(metric))
    frame = means_of(frame_of(runs, [metric], published, where, study), metric)
    table = by_study(frame, metric, study)
    dataset = one_dataset(frame[frame["dataset"].isin(table.index.get_level_values(0))], study)
    figure = new_figure(COLUMN, 2.3)
    axes = figure.add_subplot()
    axes.grid(axis="y")
    handles, names = [], [str(name) for _, name in table.index]
    for place, name in enumerate(names):
        line = table.iloc[place].dropna()
        own = frame[frame["contender"] == name].groupby(study)["value"]
        deviations = own.std(ddof=1).reindex(line.index).to_numpy(np.float64)
        axes.errorbar(line.index, line, yerr=np.nan_to_num(deviations), capsize=2, **look(place))
        handles.append(Line2D([], [], **look(place)))
    axes.set_xscale("log")
    axes.set_xticks(list(table.columns), [f"{value:g}" for value in table.columns])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12)
    percent(axes.yaxis)
    axes.set_xlabel(axis)
    axes.set_ylabel(f"{said.heading} (percent)")
    headline(figure, dataset)
    legend_below(figure, handles, names)
    return figure
