"""Mean and standard deviation over seeds, and the analysis of unseen defects: pure functions of finished results.

Letters: S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ader.metrics import METRICS, SLUGS
from ader.metrics.curves import Bins, auroc, fpr_at_95_tpr, quantile
from ader.report.tables import Cell, Column, Row, Table
from ader.results.folder import differences
from ader.results.identity import recipe_but_seed
from ader.results.schema import Record
from ader.results.tree import Result, read_result
from ader.system.errors import UserError, some

#: Divisor S - DDOF of the variance: what is printed estimates the spread of further seeds from S of them.
DDOF = 1

#: A metric of images: (defective scores, normal scores) -> fraction.
Metric = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], float]


class Spread(NamedTuple):
    """Mean and sample standard deviation (divisor S - 1) in percent, over so many seeds; NaN if undefined."""

    mean: float
    std: float
    seeds: int

    @classmethod
    def of(cls, fractions: Sequence[float]) -> Spread:
        """Of one value per seed, NaN where any is: a mean over fewer seeds would not be what it says."""
        value_S = 100 * np.asarray(fractions, np.float64)
        std = float(np.std(value_S, ddof=DDOF)) if len(value_S) > DDOF else float("nan")
        return cls(float(np.mean(value_S)) if len(value_S) else float("nan"), std, len(value_S))

    def cell(self) -> Cell:
        """Of a table; a single seed has no deviation."""
        return Cell(self.mean, deviation=None if np.isnan(self.std) else self.std)

    def __str__(self) -> str:
        """``90.2 +- 0.4``"""
        return Column("", kind="number").text(self.cell())


def over_seeds(runs: Sequence[Path], metrics: Collection[str]) -> pd.DataFrame:
    """A table of finished runs that differ in their seed.

    Args:
        runs: results folders.
        metrics: slugs, as ``metrics.csv`` has them.

    Returns:
        Rows are categories and ``mean`` (over categories, for each seed); columns are (metric, ``mean`` | ``std`` |
        ``seeds``); percent.

    Raises:
        UserError: a run is not finished, a metric is unknown, or the runs differ in more than their seed.
    """
    results = [_finished(run, "metrics") for run in runs]
    if not results:
        raise UserError("no runs are given: give the results folders of some")
    _check_alike(runs, [result.record for result in results])
    tables = [result.tables["metrics"] for result in results]
    for slug in metrics:
        if slug not in tables[0]:
            raise UserError(f"{slug!r} is no metric: choose from {', '.join(SLUGS)}")
    columns: dict[tuple[str, str], list[float]] = {}
    for slug in metrics:
        spreads = [Spread.of([float(table.loc[row, slug]) for table in tables]) for row in tables[0].index]
        for place, name in enumerate(Spread._fields):
            columns[slug, name] = [spread[place] for spread in spreads]
    return pd.DataFrame(columns, index=tables[0].index)


def seeds_table(frame: pd.DataFrame) -> Table:
    """What ``over_seeds`` found, as a table: percent, mean and deviation in one cell."""
    places = {each.slug: each.column for each in METRICS}
    metrics = [str(slug) for slug in dict.fromkeys(frame.columns.get_level_values(0))]
    columns = [Column(places[slug][1], places[slug][0], "number") for slug in metrics]
    rows = [
        Row.of(str(name), *(Spread._make(values[slug]).cell() for slug in metrics), section=name == "mean")
        for name, values in frame.iterrows()
    ]
    return Table((Column("category", wrap="ellipsis"), *columns), tuple(rows))


def read_scores(run: Path) -> pd.DataFrame:
    """Every test image's score, category, defect and label, by image.

    Raises:
        UserError: the run is not finished.
    """
    _finished(run)
    texts = pd.read_csv(run / "scores.csv", dtype=str, keep_default_na=False)
    table = texts.set_index("image")
    return table.assign(label=table["label"].astype(int), score=table["score"].astype(float))


def image_auroc(defective_N: npt.NDArray[np.float64], normal_N: npt.NDArray[np.float64]) -> float:
    """As the evaluator's; NaN where one kind of image is missing."""
    if not len(defective_N) or not len(normal_N):
        return float("nan")
    return auroc(Bins.from_two(defective_N, normal_N)).value


def image_fpr95(defective_N: npt.NDArray[np.float64], normal_N: npt.NDArray[np.float64]) -> float:
    """SegAD's FPR@95TPR; NaN where one kind of image is missing."""
    if not len(defective_N) or not len(normal_N):
        return float("nan")
    return fpr_at_95_tpr(Bins.from_two(defective_N, normal_N)).value


IMAGE_METRICS: Mapping[str, Metric] = {"image_auroc": image_auroc, "image_fpr95": image_fpr95}


def image_metric(scores: pd.DataFrame, metric: Metric) -> float:
    """Mean over categories of a metric of images' scores (``read_scores``): a fraction, NaN if one is undefined."""
    values = [metric(*_defective_and_normal(each)) for _, each in scores.groupby("category", sort=False)]
    return float(np.mean(values))


class Unseen(NamedTuple):
    """How a method does on kinds of defect that its training has, and on kinds that it lacks; fractions.

    Attributes:
        seen: image AUROC of the normal images against the seen defects.
        unseen: against the unseen.
        recall: share of the unseen defects found at the threshold that finds 95 % of all (that of FPR@95TPR).
        images: how many unseen defects there are.
    """

    seen: float
    unseen: float
    recall: float
    images: int


def unseen_defects(scores: pd.DataFrame, kinds: Collection[str]) -> Unseen:
    """The analysis of one category (protocols (c) of SegAD, which shows it as histograms).

    Args:
        scores: of ``read_scores``.
        kinds: the defects that training lacks.

    Raises:
        UserError: no image has such a defect, or all defective ones have.
    """
    defective_N, normal_N = _defective_and_normal(scores)
    new_N = scores.loc[scores["label"] == 1, "defect"].isin(list(kinds)).to_numpy()
    if not new_N.any() or new_N.all():
        found = ", ".join(sorted(set(scores.loc[scores["label"] == 1, "defect"])))
        raise UserError(f"{', '.join(kinds)} must be some of the kinds of defect, which are {found}")
    threshold = quantile(defective_N, 0.05)
    return Unseen(
        image_auroc(defective_N[~new_N], normal_N),
        image_auroc(defective_N[new_N], normal_N),
        float(np.mean(defective_N[new_N] >= threshold)),
        int(new_N.sum()),
    )


def _defective_and_normal(scores: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    score_N, label_N = scores["score"].to_numpy(np.float64), scores["label"].to_numpy()
    return score_N[label_N == 1], score_N[label_N == 0]


def _finished(run: Path, *tables: str) -> Result:
    result = read_result(run, *tables)
    if result is None:
        raise UserError(f"{run} holds no finished run: finish it first")
    return result


def _check_alike(runs: Sequence[Path], records: Sequence[Record]) -> None:
    """Refuses to average what is not comparable: another recipe, other data, the same seed twice."""
    recipes = [recipe_but_seed(each.config) | {"data": each.data_hash} for each in records]
    for run, values in zip(runs, recipes, strict=True):
        differing = differences(values, recipes[0])
        if differing:
            raise UserError(f"{run} and {runs[0]} cannot be averaged, they differ in {some(differing, 3)}")
    seeds = [each.seed for each in records]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"two of the runs have the same seed ({some(map(str, seeds))}): give each once")
