"""How stable numbers are: over seeds, and over the length of training."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ader.metrics.definitions import find_metric
from ader.report.seeds import Spread
from ader.report.statistics.values import whole_mean
from ader.report.tables import Cell, Column, Row, Table
from ader.system.errors import UserError

#: How to get what a study needs.
ADVICE = {
    "epochs": "train with trainer.epochs=100,300 (ader -m), or give published=ader",
    "image_size": "train with image_size=256,512 (ader -m)",
}


def stability_table(values: pd.DataFrame, metric: str) -> Table:
    """Mean and deviation over seeds of the mean over categories, and the extremes.

    Args:
        values: of ``statistics.values``.
        metric: slug.

    Raises:
        UserError: there are no values.
    """
    means = _means(values, metric)
    rows = []
    for (dataset, contender), group in means.groupby(["dataset", "contender"], sort=False):
        spread = Spread.of(list(group["value"]))
        fractions = group["value"].to_numpy(np.float64)
        low, high = (float(np.min(fractions)), float(np.max(fractions))) if spread.seeds > 1 else (math.nan, math.nan)
        deviation = Cell(spread.std / 100, reason="one seed has no deviation" if spread.seeds < 2 else "")
        rows.append(Row.of(str(dataset), str(contender), spread.mean / 100, deviation, low, high, float(spread.seeds)))
    percents = [Column(name, kind="percent", digits=2) for name in ("mean", "deviation", "lowest", "highest")]
    columns = (Column("dataset"), Column("method"), *percents, Column("seeds", kind="count"))
    note = "deviation: of a sample (divisor: seeds - 1); of seeds alone, every run has the same test images"
    return Table(columns, tuple(rows), f"Stability over seeds: {find_metric(metric).heading} (percent)", (note,))


def by_study(values: pd.DataFrame, metric: str, study: str = "epochs") -> pd.DataFrame:
    """Means over seeds of the mean over categories: (dataset, contender) by what is studied, ascending.

    Args:
        values: of ``values_of(..., study=study)``, or a paper's.
        metric: slug.
        study: of ``STUDIES``. Contenders that have a single one are left out.

    Raises:
        UserError: none has two.
    """
    means = _means(values, metric)
    table = means.pivot_table(
        index=["dataset", "contender"], columns=study, values="value", aggfunc=whole_mean, sort=False
    )
    table = table[table.notna().sum(axis=1) > 1]
    if table.empty:
        raise UserError(f"no method has runs that differ in {study} and in nothing else: {ADVICE[study]}")
    return table.dropna(axis=1, how="all").sort_index(axis=1)


def convergence_table(values: pd.DataFrame, metric: str) -> Table:
    """A column for each number of epochs, and what the longest training gains over the shortest."""
    table = by_study(values, metric)
    rows = []
    for (dataset, contender), line in zip(table.index, table.to_numpy(np.float64), strict=True):
        known = line[np.isfinite(line)]
        cells = [Cell(float(value), reason="not run" if math.isnan(value) else "") for value in line]
        rows.append(Row.of(str(dataset), str(contender), *cells, float(known[-1] - known[0])))
    lengths = [Column(f"{epochs:g}", "epochs", "percent") for epochs in table.columns]
    columns = (Column("dataset"), Column("method"), *lengths, Column("gain", kind="percent"))
    note = "gain: the longest training of a line less its shortest, in percentage points"
    return Table(columns, tuple(rows), f"Convergence: {find_metric(metric).heading} (percent)", (note,))


def _means(values: pd.DataFrame, metric: str) -> pd.DataFrame:
    means = values[(values["category"] == "mean") & (values["metric"] == metric)]
    if means.empty:
        raise UserError(f"no run has {metric}")
    return means
