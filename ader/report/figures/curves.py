"""ROC and precision-recall curves of images and of pixels, and PRO curves.

Those of images are computed from a run's scores; those of pixels are points that its evaluator chose (``curves.csv``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ader.metrics.curves import AUPRO_LIMIT, Bins
from ader.report.collection import Run
from ader.report.figures._style import COLUMN, GRAY, PALETTE, headline, label, legend_below, new_figure, percent
from ader.report.figures._values import scores_of
from ader.report.statistics.values import contenders
from ader.results.record import read_table
from ader.system.errors import UserError, suggest

F8 = npt.NDArray[np.float64]

#: Where curves of several categories or seeds are averaged: false positive rates, or recalls.
GRID: F8 = np.linspace(0, 1, 501)

#: More curves than colors and dashes are no figure.
MOST = 14

DASHES = ("-", "--")


class Kind(NamedTuple):
    """One kind of curve.

    Attributes:
        curve: its heights at ``x`` for each category of a run (run, category or empty for all).
        metric: whose values stand beside the names.
        x: where heights are known.
        labels: of both axes.
    """

    curve: Callable[[Run, str], dict[str, F8]]
    metric: str
    x: F8
    labels: tuple[str, str]


def draw(runs: Sequence[Run], *, category: str = "") -> Figure:
    """ROC curves: of one run each category and the mean, of several their means over categories and seeds.

    Args:
        runs: on one dataset.
        category: only this one.
    """
    return _with_chance(_draw(runs, category, ROC))


def draw_pr(runs: Sequence[Run], *, category: str = "") -> Figure:
    """Precision-recall curves, likewise.

    Args:
        runs: on one dataset.
        category: only this one.
    """
    return _draw(runs, category, PR)


def draw_pixel_roc(runs: Sequence[Run], *, category: str = "") -> Figure:
    """ROC curves of pixels, likewise.

    Args:
        runs: on one dataset.
        category: only this one.
    """
    return _with_chance(_draw(runs, category, PIXEL_ROC))


def draw_pixel_pr(runs: Sequence[Run], *, category: str = "") -> Figure:
    """Precision-recall curves of pixels, likewise.

    Args:
        runs: on one dataset.
        category: only this one.
    """
    return _draw(runs, category, PIXEL_PR)


def draw_pro(runs: Sequence[Run], *, category: str = "") -> Figure:
    """Per-region overlap against the false positive rate of pixels, up to where AUPRO counts it, likewise.

    Args:
        runs: on one dataset.
        category: only this one.
    """
    return _draw(runs, category, PRO)


def _with_chance(figure: Figure) -> Figure:
    (axes,) = figure.axes
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.6, linestyle=":")
    return figure


def _roc(bins: Bins) -> F8:
    """True positive rates at the grid's false positive rates; within ties linear, as the area counts them."""
    fpr, tpr = np.append(0.0, bins.fp_K / bins.negatives), np.append(0.0, bins.tp_K / bins.positives)
    # where the curve rises straight up, a grid point on it takes the upper end
    before = np.searchsorted(fpr, GRID, side="right") - 1
    after = np.minimum(before + 1, len(fpr) - 1)
    share = (GRID - fpr[before]) / np.where(fpr[after] > fpr[before], fpr[after] - fpr[before], 1.0)
    found: F8 = tpr[before] + share * (tpr[after] - tpr[before])
    return found


def _precision(bins: Bins) -> F8:
    """Precisions at the grid's recalls; a step, as average precision counts them: that of the next point."""
    kept = bins.defective_K > 0
    recall, precision = bins.tp_K[kept] / bins.positives, (bins.tp_K / (bins.tp_K + bins.fp_K))[kept]
    place = np.searchsorted(recall, GRID - 1e-12, side="left")
    found: F8 = precision[np.minimum(place, len(precision) - 1)]
    return found


def _of_images(run: Run, category: str, curve: Callable[[Bins], F8]) -> dict[str, F8]:
    """By category; those without both kinds of images have none."""
    scores, found = scores_of(run), {}
    for name, group in scores.groupby("category", sort=False):
        if category in ("", name) and 0 < group["label"].sum() < len(group):
            found[str(name)] = curve(_bins(group))
    if not found:
        known = list(map(str, dict.fromkeys(scores["category"])))
        asked = category and category not in known
        raise UserError(
            f"{run.title} has no category {category!r}: {suggest(category, known)}"
            if asked
            else f"{run.title} has no category with normal and defective test images: there is no curve"
        )
    return found


def _bins(group: pd.DataFrame) -> Bins:
    return Bins.from_scores(group["score"].to_numpy(np.float64), group["label"].to_numpy() == 1)


def _of_pixels(run: Run, category: str, x: str, y: str, grid: F8) -> dict[str, F8]:
    """By category; linear between points, and from the first point to the left as it is (precision) or from 0."""
    file = run.folder / "curves.csv"
    if not file.exists():
        raise UserError(
            f"{run.title} keeps no pixel curves: it has no maps, or was made by an earlier version (ader eval "
            f"{run.folder} makes its tables again)"
        )
    table, found = read_table(file), {}
    for name in dict.fromkeys(map(str, table.index)):
        points = table.loc[[name]]
        if category in ("", name) and points[y].notna().all():
            start = points[y].iloc[0] if y == "precision" else 0.0
            found[name] = np.interp(grid, np.append(0.0, points[x]), np.append(start, points[y]))
    if not found:
        known = list(map(str, dict.fromkeys(table.index)))
        raise UserError(f"{run.title} has no curve of {category!r}: {suggest(category, known)}")
    return found


_FALSE, _TRUE = "false positive rate (percent)", "true positive rate (percent)"
_PR_LABELS = ("recall (percent)", "precision (percent)")
#: Of PRO curves.
NEAR: F8 = GRID * AUPRO_LIMIT

ROC = Kind(lambda run, name: _of_images(run, name, _roc), "image_auroc", GRID, (_FALSE, _TRUE))
PR = Kind(lambda run, name: _of_images(run, name, _precision), "image_ap", GRID, _PR_LABELS)
PIXEL_ROC = Kind(lambda run, name: _of_pixels(run, name, "fpr", "tpr", GRID), "pixel_auroc", GRID, (_FALSE, _TRUE))
PIXEL_PR = Kind(lambda run, name: _of_pixels(run, name, "tpr", "precision", GRID), "pixel_ap", GRID, _PR_LABELS)
PRO = Kind(
    lambda run, name: _of_pixels(run, name, "fpr", "pro", NEAR),
    "pixel_aupro",
    NEAR,
    (_FALSE, "per-region overlap (percent)"),
)


def _draw(runs: Sequence[Run], category: str, kind: Kind) -> Figure:
    runs = [run for run in runs if run.record is not None]
    if not runs:
        raise UserError("no run is finished: there is no curve")
    if len({run.place[0] for run in runs}) > 1:
        raise UserError(f"curves are of one dataset: where='dataset={runs[0].place[0]}'")
    figure = new_figure(COLUMN, 2.6)
    axes = figure.add_subplot()
    axes.grid()
    axes.set_xlim(-0.01 * kind.x[-1], 1.01 * kind.x[-1])
    axes.set_xlabel(kind.labels[0])
    axes.set_ylabel(kind.labels[1])
    axes.set_ylim(top=1.01)
    percent(axes.xaxis)
    percent(axes.yaxis)
    if len(runs) == 1:
        handles, names = _of_run(axes, runs[0], kind.curve(runs[0], category), kind)
    else:
        handles, names = _of_methods(axes, runs, category, kind)
    bottom = min(float(np.min(line.get_ydata())) for line in axes.get_lines())
    axes.set_ylim(bottom=max(-0.01, bottom - 0.02))
    title = runs[0].title if len(runs) == 1 else runs[0].place[0]
    headline(figure, title + (f": {category}" if category else ""))
    legend_below(figure, handles, names, columns=2)
    return figure


def _of_run(axes: Axes, run: Run, found: dict[str, F8], kind: Kind) -> tuple[list[Line2D], list[str]]:
    """Every category; if they are more than colors, the three worst are named, and the others gray."""
    worst = sorted(found, key=lambda name: run.value(name, kind.metric))
    named = list(found) if len(found) <= len(PALETTE) - 1 else worst[:3]
    handles, names = [], []
    for name, y in found.items():
        if name not in named:
            axes.plot(kind.x, y, color="#b8b8b8", linewidth=0.6)
    for place, name in enumerate(named):
        (line,) = axes.plot(kind.x, found[name], color=PALETTE[place], linewidth=0.9)
        handles.append(line)
        names.append(f"{label(name, 22)} {100 * run.value(name, kind.metric):.1f}")
    if len(found) > 1:
        (line,) = axes.plot(kind.x, np.mean(list(found.values()), axis=0), color="black", linewidth=1.8)
        mean = np.mean([run.value(name, kind.metric) for name in found])
        handles.append(line)
        names.append(f"mean of {len(found)} categories {100 * float(mean):.1f}")
    return handles, names


def _of_methods(axes: Axes, runs: Sequence[Run], category: str, kind: Kind) -> tuple[list[Line2D], list[str]]:
    """Means over categories, then over seeds."""
    groups: dict[str, list[Run]] = {}
    for run, name in zip(runs, contenders(runs), strict=True):
        groups.setdefault(name, []).append(run)
    if len(groups) > MOST:
        raise UserError(
            f"{len(groups)} curves cannot be told apart: choose {MOST} methods or fewer with where='method=...'"
        )
    handles, names = [], []
    values: dict[str, tuple[float, F8]] = {}
    for name, its in groups.items():
        curves = [kind.curve(run, category) for run in its]
        y = np.mean([np.mean(list(each.values()), axis=0) for each in curves], axis=0)
        areas = [run.value(one, kind.metric) for run, each in zip(its, curves, strict=True) for one in each]
        values[name] = (float(np.mean(areas)), y)
    for place, name in enumerate(sorted(values, key=lambda name: -values[name][0])):
        mean, y = values[name]
        style = DASHES[place // len(PALETTE)]
        (line,) = axes.plot(kind.x, y, color=PALETTE[place % len(PALETTE)], linestyle=style, linewidth=1.1)
        handles.append(line)
        names.append(f"{label(name, 22)} {100 * mean:.1f}")
    return handles, names
