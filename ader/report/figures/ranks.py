"""Average ranks as Demsar (2006) draws them: who is further apart than the critical difference?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ader.metrics.definitions import find_metric
from ader.report.collection import Run
from ader.report.figures._style import COLUMN, GRAY, PALETTE, label, new_figure
from ader.report.figures._values import frame_of, one_metric, share
from ader.report.statistics.ranks import Over, Ranks, rank
from ader.system.errors import UserError, suggest

#: Inches: of a line of names, and of a bar below the axis.
LINE, BAR = 0.155, 0.075


def draw(
    runs: Sequence[Run],
    *,
    metric: str = "mad",
    over: str = "",
    alpha: str = "0.05",
    published: str = "",
    where: str = "",
) -> Figure:
    """A critical difference diagram.

    Args:
        runs: of several methods.
        metric: slug.
        over: ``datasets`` (by default, where there are several) or ``categories``.
        alpha: level of the test.
        published: a paper in the place of runs, and of its rows those that ``where`` holds for.
    """
    metric, level = one_metric(metric), share("alpha", alpha)
    if over not in ("", "datasets", "categories"):
        raise UserError(f"over={over} is not known: {suggest(over, ('datasets', 'categories'))}")
    frame = frame_of(runs, [metric], published, where)
    several = frame["dataset"].nunique() > 1
    kind: Over = "categories" if over == "categories" or (not over and not several) else "datasets"
    found = rank(frame, metric, kind, level)
    groups, lines = found.groups(), -(-len(found.names) // 2)
    above, between = 0.62, 0.1 + BAR * len(groups)
    height = above + between + LINE * lines + 0.3
    texts = [f"{label(name, 17)} {place:.1f}" for name, place in zip(found.names, found.ranks, strict=True)]
    beside = 0.14 + 0.06 * max(map(len, texts))
    width = max(COLUMN, 2 * beside + 0.11 * len(texts))
    figure = new_figure(width, height, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)  # inches from the upper edge
    _Diagram(axes, found, texts, beside, width - beside, above, between, lines).draw(groups)
    said = find_metric(metric).heading
    text = f"average rank of {said} on {len(found.blocks)} {kind}, 1 is best"
    axes.text(width / 2, height - 0.1, text, ha="center", va="center", fontsize=7, color=GRAY)
    return figure


@dataclass(frozen=True)
class _Diagram:
    """Lines and names at their places; inches from the upper left corner.

    Attributes:
        axes: where.
        ranks: what is drawn.
        texts: names with their ranks.
        left, right: ends of the axis.
        y: of the axis.
        between: the axis and the names.
        lines: of names, at the left.
    """

    axes: Axes
    ranks: Ranks
    texts: Sequence[str]
    left: float
    right: float
    y: float
    between: float
    lines: int

    def x(self, rank: float) -> float:
        """The best rank is at the left."""
        return self.left + (rank - 1) / (len(self.ranks.names) - 1) * (self.right - self.left)

    def draw(self, groups: Sequence[tuple[int, int]]) -> None:
        """Axis, critical difference, bars of groups, names."""
        count, axes = len(self.ranks.names), self.axes
        axes.plot([self.left, self.right], [self.y, self.y], color="black", lw=0.8, solid_capstyle="butt")
        step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (count - 1) / step <= 8)
        for tick in range(1, count + 1, step) if step < 5 else (1, *range(step, count + 1, step)):
            axes.plot([self.x(tick)] * 2, [self.y - 0.05, self.y], color="black", lw=0.6)
            axes.text(self.x(tick), self.y - 0.08, str(tick), ha="center", va="bottom", fontsize=7)
        self._distance()
        for number, (first, last) in enumerate(groups):
            y = self.y + 0.1 + BAR * number
            ends = self.x(self.ranks.ranks[first]) - 0.03, self.x(self.ranks.ranks[last]) + 0.03
            axes.plot(ends, [y, y], color="black", lw=2.2, solid_capstyle="butt")
        for place in range(count):
            self._name(place)

    def _distance(self) -> None:
        """A bar as long as the critical difference; as long as the axis where it is longer, which it says."""
        whole = self.right - self.left
        length = self.ranks.distance / (len(self.ranks.names) - 1) * whole
        shown, y = min(length, whole), self.y - 0.33
        self.axes.plot([self.left, self.left + shown], [y, y], color=PALETTE[1], lw=1.4, solid_capstyle="butt")
        for x in (self.left, self.left + shown) if shown == length else (self.left,):
            self.axes.plot([x, x], [y - 0.035, y + 0.035], color=PALETTE[1], lw=1)
        longer = "" if shown == length else ", longer than the axis"
        text = f"critical difference {self.ranks.distance:.2f}{longer}"
        middle = (self.left + self.right) / 2
        self.axes.text(middle, y - 0.06, text, ha="center", va="bottom", fontsize=7, color=PALETTE[1])

    def _name(self, place: int) -> None:
        """The better half stands at the left, from above; the worse half at the right, the worst one highest."""
        count = len(self.ranks.names)
        is_left = place < self.lines
        row = place if is_left else count - 1 - place
        x, y = self.x(self.ranks.ranks[place]), self.y + self.between + LINE * (row + 0.5)
        end = self.left - 0.06 if is_left else self.right + 0.06
        self.axes.plot([x, x, end], [self.y, y, y], color=GRAY, lw=0.5)
        side = "right" if is_left else "left"
        self.axes.text(end + (-0.03 if is_left else 0.03), y, self.texts[place], ha=side, va="center", fontsize=7)
