"""Every seed of every method as a point: how much of a difference is chance?"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ader.metrics.definitions import find_metric
from ader.report.collection import Run
from ader.report.figures._style import COLUMN, PALETTE, headline, label, new_figure, percent
from ader.report.figures._values import frame_of, means_of, one_dataset, one_metric
from ader.report.seeds import Spread
from ader.system.errors import UserError


def draw(runs: Sequence[Run], *, metric: str = "mad") -> Figure:
    """A line for each method, the best at the top: seeds as points, the mean as a stroke, its deviation as a bar.

    Args:
        runs: on one dataset.
        metric: slug.
    """
    said = find_metric(one_metric(metric))
    means = means_of(frame_of(runs, [metric]), metric).dropna(subset=["value"])
    if means.empty:
        raise UserError(f"figure seeds: {metric} is undefined for all runs")
    dataset = one_dataset(means, "seeds")
    groups = {str(name): list(group["value"]) for name, group in means.groupby("contender", sort=False)}
    names = sorted(groups, key=lambda name: sum(groups[name]) / len(groups[name]), reverse=not said.higher_is_better)
    figure = new_figure(COLUMN, 0.17 * len(names) + 0.75)
    axes = figure.add_subplot()
    axes.grid(axis="x")
    for y, name in enumerate(names):
        spread = Spread.of(groups[name])
        if spread.std == spread.std:
            axes.barh(y, 2 * spread.std / 100, left=(spread.mean - spread.std) / 100, height=0.5, color="#d4e6f3")
        axes.plot([spread.mean / 100] * 2, [y - 0.35, y + 0.35], color="black", linewidth=1)
        axes.plot(groups[name], [y] * len(groups[name]), "o", color=PALETTE[0], markersize=3, alpha=0.8)
    axes.set_yticks(range(len(names)), [f"{label(name, 24)} ({len(groups[name])})" for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="y", length=0)
    percent(axes.xaxis)
    figure.supxlabel(f"{said.heading} (percent): mean, deviation, (seeds)", fontsize=8)
    headline(figure, dataset)
    return figure
