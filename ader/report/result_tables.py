"""The tables of one result: pure functions of its record and its CSV files."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import pandas as pd

from ader.metrics import METRICS, chance
from ader.report.renderers import WIDTH
from ader.report.tables import Cell, Column, Row, Table
from ader.results.schema import Record

MAIN, MORE, OBJECT = (
    tuple((each.slug, *each.column) for each in METRICS if each.table == table) for table in ("main", "more", "object")
)
DEFECTS = tuple((each.slug, *each.column) for each in METRICS if each.per_defect)


#: Rows that are no category.
ROLES: tuple[Literal["mean", "chance"], ...] = ("mean", "chance")


def category_tables(
    frame: pd.DataFrame, bounds: pd.DataFrame, result: Record, worse: Collection[tuple[str, str]] = ()
) -> list[Table]:
    """A row per category: the seven main metrics with their mean, the others, and those of objects if there are any.

    Args:
        frame: rows are categories, ``mean`` and perhaps ``chance``; columns are metric slugs; fractions.
        bounds: the same of how far the exact values may be.
        result: says why values are missing, and has the title of the first table.
        worse: what random scores would surpass: (row, slug).
    """
    kind = "" if result.metric == "histogram" else f"  metric={result.metric}"
    chosen = [MAIN, MORE, OBJECT]
    if not frame.loc["mean", [slug for slug, _, _ in OBJECT]].notna().any():
        chosen.pop()
    titles = [f"{result.title}{kind}  (percent)", "", ""]
    return [
        Table(
            columns=(Column("category", wrap="ellipsis", widest=WIDTH - 6 * len(metrics)), *percentages(metrics)),
            rows=tuple(_category(str(name), metrics, frame, bounds, result, worse) for name in frame.index),
            title=title,
        )
        for metrics, title in zip(chosen, titles, strict=False)
    ]


def percentages(metrics: Sequence[tuple[str, str, str]]) -> list[Column]:
    """A column for each metric."""
    return [Column(heading, group, "percent") for _, group, heading in metrics]


def _category(
    name: str,
    metrics: Sequence[tuple[str, str, str]],
    frame: pd.DataFrame,
    bounds: pd.DataFrame,
    result: Record,
    worse: Collection[tuple[str, str]],
) -> Row:
    values, within = (dict(table.loc[name].items()) if name in table.index else {} for table in (frame, bounds))
    reason = "; ".join(why for why, where in roots(result.undefined).items() if name in where)
    known = {slug: bound for slug, bound in within.items() if not math.isnan(bound)}
    cells = [
        Cell(value, bound=known.get(slug), reason=reason if math.isnan(value) else "", bad=(name, slug) in worse)
        for slug, value in ((slug, float(values.get(slug, math.nan))) for slug, _, _ in metrics)
    ]
    role = next((each for each in ROLES if each == name), None)
    return Row((Cell(name), *cells), role or "", section=name == "mean")


def worse_than_chance(frame: pd.DataFrame, counts: pd.DataFrame) -> list[tuple[str, str]]:
    """Where random scores would be better, by more than rounding: (category or ``mean``, slug).

    Args:
        frame: rows are categories and ``mean``, columns are metric slugs; fractions.
        counts: `Evaluator.counts`.
    """
    rows = {name: chance(counts.loc[[name]]) for name in counts.index} | {"mean": chance(counts)}
    below = frame - pd.DataFrame(rows).T
    return [
        (str(name), each.slug)
        for each in METRICS
        if each.slug in below
        for name, value in below[each.slug].items()
        if (value if each.higher_is_better else -value) < -1e-9
    ]


def roots(reasons: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Why values are missing, without what is undefined only because another metric is: reason -> categories."""
    found: dict[str, list[str]] = {}
    for reason, where in reasons.items():
        known = found.setdefault(reason.rpartition(" is undefined: ")[2], [])
        known += [name for name in where if name not in known]
    return found


def defect_table(frame: pd.DataFrame) -> Table:
    """A row per kind of defect; a category is named in its first row only.

    Args:
        frame: rows are (category, defect); columns are metric slugs; fractions.
    """
    widest = (WIDTH - 6 * len(DEFECTS)) // 2 - 1
    names = [Column(name, widest=widest) for name in ("category", "defect")]
    rows, above = [], None
    for (category, defect), values in zip(frame.index, frame.to_dict("records"), strict=True):
        rows.append(Row.of("" if category == above else category, defect, *(values[slug] for slug, _, _ in DEFECTS)))
        above = category
    return Table((*names, *percentages(DEFECTS)), tuple(rows))
