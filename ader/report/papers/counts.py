"""Numbers of images, as papers print them and as this program's datasets state them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ader.config.options import options, read_option
from ader.data.counts import SHORT, TOTAL

#: Columns of the papers' tables: heading, and what it is the sum of in a dataset's ``counts``.
COUNTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "train_categories": ("categories", ()),
    "train_normal": ("training", ("train_good", "validation_good")),
    "test_normal": ("test, normal", ("test_good",)),
    "test_anomaly": ("test, defective", ("test_bad",)),
}


def stated(dataset: str, metric: str) -> float:
    """What an option of ``dataset=`` states; NaN where it states nothing, or is none.

    Args:
        dataset: the option.
        metric: of ``COUNTS``.
    """
    if dataset not in options("dataset"):
        return math.nan
    values = read_option("dataset", dataset)
    rows: Mapping[str, Any] = values.get("counts") or {}
    if not COUNTS[metric][1]:
        return float(len(values.get("about", {}).get("categories") or rows))
    joined = values.get("train_on") is None or "validation" in values["train_on"]
    names = [name for name in COUNTS[metric][1] if joined or not name.startswith("validation")]
    rows = {TOTAL: rows[TOTAL]} if TOTAL in rows else rows
    numbers = [_number(row, name) for row in rows.values() for name in names]
    return float(sum(numbers)) if numbers else math.nan


def _number(row: Any, name: str) -> float:
    """One number of a row, the first where any of several will do."""
    if not isinstance(row, Mapping):
        row = dict(zip(SHORT, row, strict=True))
    value = row.get(name, 0)
    return float(value[0] if isinstance(value, list) else value)
