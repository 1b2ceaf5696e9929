"""Histograms of image scores: are normal and defective images apart, and are unseen defects (SegAD's figure)?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ader.report.collection import Run
from ader.report.figures._style import COLUMN, DEFECTIVE, NORMAL, UNSEEN, headline, label, new_figure
from ader.report.figures._values import scores_of
from ader.system.errors import UserError, some, suggest

BINS = 24

#: More panels than fit on a page are none.
MOST = 60


def draw(runs: Sequence[Run], *, category: str = "", unseen: str = "") -> Figure:
    """A panel for each category.

    Args:
        runs: one.
        category: only this one.
        unseen: kinds of defect that are shown apart, separated by commas; by default those that training lacks, where
            it has any defects.
    """
    if len(runs) != 1 or runs[0].record is None:
        raise UserError(f"figure scores is of one finished run, and there are {len(runs)}: where='method=... seed=...'")
    (run,) = runs
    scores = scores_of(run)
    names = [str(name) for name in dict.fromkeys(scores["category"])]
    if category and category not in names:
        raise UserError(f"{run.title} has no category {category!r}: {suggest(category, names)}")
    names = [category] if category else names
    if len(names) > MOST:
        raise UserError(f"figure scores has a panel for each of {len(names)} categories: choose one with category=NAME")
    kinds = _unseen(run, scores, unseen)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(COLUMN, 0.98 * rows + (0.8 if rows > 1 else 1.0))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, scores[scores["category"] == name], kinds)
        axes.set_title(label(name, 40 if len(names) == 1 else 18), fontsize=7, pad=2)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(names) - columns) : len(names)]:  # the lowest of each column
        axes.set_xlabel("image score", fontsize=7)
    figure.supylabel("share of a kind's images (percent)" if rows > 1 else "share (percent)", fontsize=8)
    headline(figure, run.title)
    handles: list[Patch | Line2D] = [Patch(facecolor=NORMAL, alpha=0.45), Line2D([], [], color=DEFECTIVE)]
    texts = ["normal", "defective, seen in training" if kinds else "defective"]
    if kinds:
        handles.append(Line2D([], [], color=UNSEEN, linestyle="--"))
        texts.append("unseen defects")
    figure.legend(handles, texts, loc="outside lower center", ncols=len(texts))
    return figure


def _panel(axes: Axes, scores: pd.DataFrame, kinds: Sequence[str]) -> None:
    """Shares, not numbers: there are often few images of one kind."""
    score_N, bad_N = scores["score"].to_numpy(np.float64), scores["label"].to_numpy() == 1
    new_N = bad_N & scores["defect"].isin(list(kinds)).to_numpy()
    finite = score_N[np.isfinite(score_N)]
    axes.set_yticks([])
    axes.tick_params(labelsize=6, pad=1.5)
    axes.locator_params(axis="x", nbins=3)
    if not len(finite):
        axes.text(0.5, 0.5, "no finite score", ha="center", va="center", transform=axes.transAxes, fontsize=7)
        return
    low, high = float(finite.min()), float(finite.max())
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    for chosen, color, style in ((~bad_N, NORMAL, "fill"), (bad_N & ~new_N, DEFECTIVE, "-"), (new_N, UNSEEN, "--")):
        part = score_N[chosen & np.isfinite(score_N)]
        if not len(part):
            continue
        height = 100 * np.histogram(part, edges)[0] / len(part)
        if style == "fill":
            axes.stairs(height, edges, fill=True, color=color, alpha=0.45, linewidth=0)
        else:
            axes.stairs(height, edges, color=color, linestyle=style, linewidth=1)
    axes.set_yticks([0, round(axes.get_ylim()[1] / 1.05)])
    axes.margins(x=0.02)


def _unseen(run: Run, scores: pd.DataFrame, asked: str) -> list[str]:
    """Kinds of defect that are shown apart.

    Raises:
        UserError: one that was asked for is not in the test.
    """
    bad = scores["label"] == 1
    tested = list(map(str, dict.fromkeys(scores.loc[bad, "defect"])))
    if asked:
        kinds = asked.split(",")
        if wrong := [kind for kind in kinds if kind not in tested]:
            raise UserError(f"unseen={asked}: the test has no {wrong[0]!r}: it has {some(tested, 8)}")
        return kinds
    file = run.folder / "training.csv"
    try:
        training = pd.read_csv(file, dtype=str, keep_default_na=False)
        seen = set(training.loc[training["label"] == "1", "defect"])
    except (OSError, ValueError, KeyError):
        return []  # an older run's, or of scored maps
    return [kind for kind in tested if kind not in seen] if seen else []
