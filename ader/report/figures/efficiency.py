"""Training time against what it buys (ADer Fig. 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ader import published as papers
from ader.metrics.definitions import find_metric
from ader.report.collection import Run, done
from ader.report.figures._style import COLUMN, GRAY, headline, legend_below, look, new_figure, percent
from ader.report.figures._values import frame_of, is_defined, means_of, one_dataset, one_metric
from ader.report.statistics.values import contenders, published_values, whole_mean
from ader.report.where import parse
from ader.results.schema import Record
from ader.system.errors import UserError

#: What markers' areas stand for: its unit, and how much of it makes a number.
SIZES = {"params": ("M parameters", 1e6), "macs": ("G multiply-accumulates", 1e9)}


@dataclass(frozen=True)
class Point:
    """One method.

    Attributes:
        name: of it.
        hours: of training.
        size: parameters or multiply-accumulates; NaN where unknown.
        values: of the metrics, fractions.
    """

    name: str
    hours: float
    size: float
    values: tuple[float, ...]


def draw(
    runs: Sequence[Run],
    *,
    metric: str = "mad,pixel_ioumax",
    size: str = "params",
    published: str = "",
    where: str = "dataset=mvtec",
) -> Figure:
    """A panel for each metric, a marker for each method.

    Args:
        runs: on one dataset; of several seeds the means are shown.
        metric: slugs, separated by commas.
        size: what the markers' areas stand for: ``params`` or ``macs``.
        published: ``ader`` in the place of runs: its Table 1, and the metrics after 100 epochs.
        where: the dataset of the published numbers, such as ``dataset=visa``.
    """
    slugs = [one_metric(slug) for slug in metric.split(",")]
    if size not in SIZES:
        raise UserError(f"size={size} is not known: choose from {', '.join(SIZES)}")
    points, dataset, notes = _published(slugs, size, published, where) if published else _own(runs, slugs, size)
    points = sorted((point for point in points if point.hours > 0), key=lambda point: point.name)
    if not points:
        raise UserError("figure efficiency: no run says how long its training took")
    figure = new_figure(COLUMN, 1.75 * len(slugs) + 0.2 + 0.12 * len(notes))
    panels = figure.subplots(len(slugs), 1, sharex=True, squeeze=False)[:, 0]
    unit, amount = SIZES[size]
    for number, (axes, slug) in enumerate(zip(panels, slugs, strict=True)):
        _panel(axes, points, number)
        axes.set_ylabel(f"{find_metric(slug).heading} (percent)")
    headline(figure, dataset, 0.45)
    panels[-1].set_xlabel("training time (hours)" + "".join(f"\n{note}" for note in notes))
    handles = [Line2D([], [], linestyle="", **look(place)) for place in range(len(points))]
    names = [point.name for point in points]
    _size_legend(figure, [point.size for point in points], unit, amount)
    legend_below(figure, handles, names)
    return figure


def _panel(axes: Axes, points: Sequence[Point], number: int) -> None:
    axes.set_xscale("log")
    axes.grid()
    area = _areas([point.size for point in points])
    for place, point in enumerate(points):
        if is_defined(point.values[number]):
            known = is_defined(point.size)
            shown = look(place)
            colors = {"facecolor": shown["color"] if known else "none", "edgecolor": shown["color"]}
            size = area(point.size) if known else 20.0
            axes.scatter(
                point.hours,
                point.values[number],
                s=size,
                marker=shown["marker"],
                alpha=0.85,
                zorder=3 - size / 1e3,
                **colors,
            )  # the large ones lie below
    hours = [point.hours for point in points]
    few = max(hours) / min(hours) < 30
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    beside = 1.5 if max(hours) > 2 * min(hours) else 3.0
    axes.set_xlim(min(hours) / beside, max(hours) * beside)
    axes.margins(y=0.15)
    percent(axes.yaxis)


def _areas(sizes: Sequence[float]) -> Callable[[float], float]:
    """Square points of a size: proportional, up to what leaves room for others; no marker is too small to be seen."""
    known = [size for size in sizes if is_defined(size)]
    largest = 250 * min(1.0, 12 / max(1, len(sizes)))
    return lambda size: 10 + largest * size / max(known)


def _size_legend(figure: Figure, sizes: Sequence[float], unit: str, amount: float) -> None:
    """Gray markers whose sizes are those of round numbers; where nothing is known, none."""
    known = np.array([size / amount for size in sizes if is_defined(size) and size > 0])
    if not len(known):
        return
    decades = range(math.floor(math.log10(known.min())), math.ceil(math.log10(known.max())) + 1)
    wanted = [10.0**decade for decade in decades if known.min() / 3 <= 10.0**decade <= known.max() * 1.2][-3:]
    area = _areas(sizes)
    handles = [
        Line2D([], [], linestyle="", marker="o", color=GRAY, alpha=0.6, markersize=math.sqrt(area(value * amount)))
        for value in wanted
    ]
    texts = [f"{value:g}" for value in wanted]
    texts[-1:] = [f"{text} {unit}" for text in texts[-1:]]
    if texts:
        figure.legend(handles, texts, ncols=len(wanted), loc="outside upper right", handletextpad=0.5, borderpad=0.6)


def _own(runs: Sequence[Run], slugs: Sequence[str], size: str) -> tuple[list[Point], str, list[str]]:
    """Of runs: hours of all stages of all models, means over seeds."""
    frame = frame_of(runs, slugs)
    dataset = one_dataset(frame, "efficiency")
    finished = done(runs)
    names = contenders([run for run, _ in finished])
    costs = pd.DataFrame(
        [(name, _hours(record), _size(record, size)) for name, (_, record) in zip(names, finished, strict=True)],
        columns=["contender", "hours", "size"],
    )
    cost = costs.groupby("contender").mean()
    tables = [means_of(frame, slug).groupby("contender")["value"].agg(whole_mean) for slug in slugs]
    points = [
        Point(str(name), float(row["hours"]), float(row["size"]), tuple(float(t.get(name, np.nan)) for t in tables))
        for name, row in cost.iterrows()
    ]
    return points, dataset, _machines([record for _, record in finished])


def _hours(record: Record) -> float:
    return sum(stage.seconds for model in record.models.values() for stage in model.training.stages.values()) / 3600


def _size(record: Record, size: str) -> float:
    """Of one model: those of other categories are as large."""
    sizes = [getattr(model.network, size) for model in record.models.values()]
    return float(max(sizes)) if sizes else math.nan


def _machines(records: Sequence[Record]) -> list[str]:
    """Times of different machines cannot be compared, which a reader has to know."""
    kinds = {
        (each.provenance.hardware.gpus or (each.provenance.hardware.cpu,), model.training.processes)
        for each in records
        for model in each.models.values()
    }
    return [f"times are of {len(kinds)} kinds of machines"] if len(kinds) > 1 else []


def _published(slugs: Sequence[str], size: str, source: str, where: str) -> tuple[list[Point], str, list[str]]:
    """ADer's Table 1 on one L40S, with the metrics of its Tables 3 to 5."""
    if source != "ader":
        raise UserError(f"figure efficiency: published={source} has no training times: published=ader has")
    (dataset, *others) = parse(where).wanted.get("dataset", ("mvtec",))
    table = papers.read("ader_efficiency")
    column = f"{dataset}_train_hours"
    if column not in table or others:
        raise UserError(f"where={where!r}: ADer gives times of one of dataset=mvtec, dataset=visa, dataset=real_iad")
    frame = published_values("ader", slugs, f"dataset={dataset} epochs=100")
    known = {slug: means_of(frame, slug).set_index("contender")["value"] for slug in slugs}
    sizes = pd.to_numeric(table["params_M" if size == "params" else "flops_G"]) * SIZES[size][1]
    hours = pd.to_numeric(table[column], errors="coerce")  # OOM
    points = [
        Point(str(name), float(hour), float(number), tuple(float(known[slug].get(name, np.nan)) for slug in slugs))
        for name, hour, number in zip(table["method"], hours, sizes, strict=True)
        if is_defined(hour)
    ]
    return points, dataset, ["published: ADer Table 1 (one L40S), 100 epochs"]
