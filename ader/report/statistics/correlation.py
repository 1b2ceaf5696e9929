"""Do datasets agree? Pearson correlations between them, over metrics or over methods (ADer Fig. 4, InvAD Table 3)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ader.report.statistics.values import whole_mean
from ader.report.tables import Cell, Column, Row, Table
from ader.system.errors import UserError

#: Metrics of InvAD's Table 3: the seven, and its four further ones.
SEVEN = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro")
ELEVEN = (*SEVEN, "pixel_f1_02_08", "pixel_acc_02_08", "pixel_iou_02_08", "pixel_ioumax")

#: A line through two points is always straight.
FEWEST = 3


def pearson(table: pd.DataFrame) -> pd.DataFrame:
    """Between all pairs of columns.

    Args:
        table: columns are datasets; rows are what is correlated over, such as metrics or methods.

    Returns:
        Datasets by datasets, in [-1, 1]; NaN where fewer than three rows have both, or a dataset's do not vary.
    """
    names = list(table.columns)
    found = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for number, one in enumerate(names):
        for other in names[:number]:
            both = table[[one, other]].dropna().to_numpy(np.float64)
            varies = len(both) >= FEWEST and both.std(axis=0).min() > 0
            found.loc[one, other] = found.loc[other, one] = np.corrcoef(both.T)[0, 1] if varies else np.nan
    return found


def over_metrics(values: pd.DataFrame, contender: str) -> pd.DataFrame:
    """One method's means, metrics by datasets: whether datasets show the same strengths (InvAD Table 3)."""
    return _means(values[values["contender"] == contender], ["metric"])


def over_methods(values: pd.DataFrame) -> pd.DataFrame:
    """Means of methods and metrics by datasets: whether datasets order methods alike."""
    return _means(values, ["contender", "metric"])


def _means(values: pd.DataFrame, rows: list[str]) -> pd.DataFrame:
    means = values[values["category"] == "mean"]
    return means.pivot_table(index=rows, columns="dataset", values="value", aggfunc=whole_mean, sort=False)


def correlation(values: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The correlations of datasets and what they are over: methods, or with a single one its metrics.

    Raises:
        UserError: there are fewer than two datasets, or too few methods or metrics.
    """
    datasets = list(dict.fromkeys(values["dataset"]))
    names = list(dict.fromkeys(values["contender"]))
    if len(datasets) < 2:
        raise UserError(f"correlations are between datasets: there is only {', '.join(datasets) or 'none'}")
    metrics = list(dict.fromkeys(values["metric"]))
    if len(names) == 1:
        table, over = over_metrics(values, names[0]), f"{len(metrics)} metrics of {names[0]}"
    else:
        table = over_methods(values)
        over = f"{len(names)} methods" + (f" and {len(metrics)} metrics" if len(metrics) > 1 else "")
    found = pearson(table)
    if (
        found.to_numpy()[~np.eye(len(found), dtype=bool)].size
        and not np.isfinite(found.to_numpy()[~np.eye(len(found), dtype=bool)]).any()
    ):
        raise UserError(f"correlations need {FEWEST} methods or metrics that two datasets share: {over} are too few")
    return found, over


def correlation_table(found: pd.DataFrame, over: str) -> Table:
    """The lower triangle."""
    columns = (Column("dataset"), *(Column(str(name), kind="number", digits=3) for name in found.columns[:-1]))
    rows, value_DD = [], found.to_numpy(np.float64)
    for number, name in enumerate(found.index[1:], 1):
        cells = [
            Cell(float(value_DD[number, place]), reason="too few in common") if place < number else Cell("")
            for place in range(len(found) - 1)
        ]
        rows.append(Row.of(str(name), *cells))
    return Table(columns, tuple(rows), f"Pearson correlation between datasets, over {over}")
