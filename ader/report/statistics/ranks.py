"""Average ranks of methods over datasets or categories, and which differences are more than chance.

Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7 (2006), section 3.2.2: the test of
Friedman with Iman and Davenport's correction, then that of Nemenyi. Letters: N blocks (datasets), K methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ader.metrics.definitions import find_metric
from ader.report.statistics.values import whole_mean
from ader.report.tables import Column, Row, Table
from ader.system.errors import UserError, some

#: What methods are ranked on.
Over = Literal["categories", "datasets"]

ALPHA = 0.05


@dataclass(frozen=True)
class Friedman:
    """Whether methods differ at all.

    Attributes:
        chi2: Friedman's statistic, as Demsar has it: without a correction for ties, which errs on the safe side.
        f: Iman and Davenport's; infinite where every block has the same order.
        p: the chance of such an ``f`` among equal methods.
    """

    chi2: float
    f: float
    p: float

    @classmethod
    def of(cls, rank_K: npt.NDArray[np.float64], blocks: int) -> Friedman:
        """Of average ranks.

        Args:
            rank_K: of each method, 1 is the best.
            blocks: N that they are averages of.
        """
        from scipy import stats

        methods = len(rank_K)
        chi2 = 12 * blocks / (methods * (methods + 1)) * float(np.sum((rank_K - (methods + 1) / 2) ** 2))
        left = blocks * (methods - 1) - chi2
        f = (blocks - 1) * chi2 / left if left > 1e-9 else math.inf
        return cls(chi2, f, float(stats.f.sf(f, methods - 1, (methods - 1) * (blocks - 1))))


def critical_difference(methods: int, blocks: int, alpha: float = ALPHA) -> float:
    """Nemenyi's: average ranks that are further apart differ at the level ``alpha``."""
    from scipy import stats

    studentized = float(stats.studentized_range.ppf(1 - alpha, methods, math.inf)) / math.sqrt(2)
    return studentized * math.sqrt(methods * (methods + 1) / (6 * blocks))


@dataclass(frozen=True)
class Ranks:
    """Methods from the best average rank to the worst.

    Attributes:
        names: of the methods.
        ranks: their average ranks; equal values share the mean of their ranks.
        means: the metric's mean over the blocks, fractions.
        blocks: what was ranked on: datasets, or categories with their dataset.
        left_out: blocks in which a method lacks a value, with the methods that do.
        friedman: whether they differ at all.
        alpha: level of the critical difference.
        distance: the critical difference.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    means: tuple[float, ...]
    blocks: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]
    friedman: Friedman
    alpha: float
    distance: float

    def groups(self) -> list[tuple[int, int]]:
        """Methods that are not told apart: first and last place of every longest such stretch of two or more."""
        found: list[tuple[int, int]] = []
        for first, rank in enumerate(self.ranks):
            last = max(place for place, other in enumerate(self.ranks) if other - rank <= self.distance)
            if last > first and (not found or last > found[-1][1]):
                found.append((first, last))
        return found


def average_ranks(table: pd.DataFrame, higher_is_better: bool = True, alpha: float = ALPHA) -> Ranks:
    """Ranks the columns within every row that has a value for each.

    Args:
        table: rows are blocks, columns are methods; NaN where there is no value.
        higher_is_better: what rank 1 is.
        alpha: level of the critical difference.

    Raises:
        UserError: there are fewer than two methods or two whole blocks.
    """
    whole = table.dropna()
    gaps = {
        str(block): tuple(str(name) for name in row.index[row.isna()]) for block, row in table.iterrows() if row.hasnans
    }
    if table.shape[1] < 2:
        raise UserError(f"ranks need two methods or more: there is {some(map(str, table.columns)) or 'none'}")
    if len(whole) < 2:
        raise UserError(_too_few(whole, gaps))
    from scipy.stats import rankdata

    sign = -1.0 if higher_is_better else 1.0
    # values that were printed or stored alike tie; the last bits of a mean are no difference
    rank_NK = rankdata(sign * np.round(whole.to_numpy(np.float64), 12), axis=1)
    rank_K = rank_NK.mean(axis=0)
    order = sorted(range(len(rank_K)), key=lambda place: (rank_K[place], str(table.columns[place])))
    return Ranks(
        names=tuple(str(table.columns[place]) for place in order),
        ranks=tuple(float(rank_K[place]) for place in order),
        means=tuple(float(whole.iloc[:, place].mean()) for place in order),
        blocks=tuple(map(str, whole.index)),
        left_out=gaps,
        friedman=Friedman.of(rank_K, len(whole)),
        alpha=alpha,
        distance=critical_difference(len(rank_K), len(whole), alpha),
    )


def _too_few(whole: pd.DataFrame, gaps: dict[str, tuple[str, ...]]) -> str:
    """With the methods that most blocks lack: leaving those out may leave enough."""
    missing = pd.Series([name for names in gaps.values() for name in names], dtype=str).value_counts()
    worst = (
        f", most often {some(map(str, missing.index), 3)}: leave those out (where='method!=NAME,NAME')" if gaps else ""
    )
    return (
        f"ranks need two datasets or categories in which every method has a value: there are {len(whole)}, and "
        f"{len(gaps)} lack one{worst}"
    )


def blocks(values: pd.DataFrame, metric: str, over: Over) -> pd.DataFrame:
    """What is ranked: means over seeds, blocks by contenders.

    Args:
        values: of ``statistics.values``.
        metric: slug.
        over: ``datasets``, by their mean over categories; or ``categories`` of all datasets.
    """
    wanted = values[(values["metric"] == metric) & ((values["category"] == "mean") == (over == "datasets"))]
    key = wanted["dataset"] if over == "datasets" else wanted["dataset"] + " / " + wanted["category"]
    frame = wanted.assign(block=key).groupby(["block", "contender"], sort=False)["value"].agg(whole_mean)
    return frame.unstack("contender")


def rank(values: pd.DataFrame, metric: str, over: Over, alpha: float = ALPHA) -> Ranks:
    """Of values in long form, see ``blocks``."""
    return average_ranks(blocks(values, metric, over), find_metric(metric).higher_is_better, alpha)


def ranks_table(ranks: Ranks, metric: str, over: Over) -> Table:
    """With what the tests say as notes."""
    columns = (Column("method"), Column("average rank", kind="number", digits=2), Column("mean", kind="percent"))
    rows = tuple(Row.of(*each) for each in zip(ranks.names, ranks.ranks, ranks.means, strict=True))
    said = find_metric(metric)
    title = f"Average ranks of {len(ranks.names)} methods on {len(ranks.blocks)} {over}: {said.heading}"
    return Table(columns, rows, title, tuple(_notes(ranks, over)))


def _notes(ranks: Ranks, over: Over) -> Sequence[str]:
    test = ranks.friedman
    notes = [
        f"Friedman: chi2 = {test.chi2:.2f}, F = {test.f:.2f} (Iman-Davenport), p = {test.p:.2g}"
        + ("" if test.p < ranks.alpha else ": the methods are not told apart"),
        f"Nemenyi: ranks that differ by less than {ranks.distance:.2f} are not told apart at the level {ranks.alpha:g}",
        *(f"not told apart: {', '.join(ranks.names[first : last + 1])}" for first, last in ranks.groups()),
    ]
    if over == "categories":
        notes.append("CAUTION categories of one dataset are alike: these tests take them for independent")
    if ranks.left_out:
        lacking = sorted({name for names in ranks.left_out.values() for name in names})
        notes.append(
            f"CAUTION {len(ranks.left_out)} {over} are left out, which not all have: {some(lacking)} lack some"
        )
    return notes
