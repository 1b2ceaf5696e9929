"""The per-category tables of one result, readable at 80 columns, on a terminal and in a log file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from ader.metrics import METRICS

#: Column width of the printed tables.
WIDTH = 80

MAIN, MORE, OBJECT = (
    tuple((each.slug, *each.column) for each in METRICS if each.table == table) for table in ("main", "more", "object")
)
DEFECTS = tuple((each.slug, *each.column) for each in METRICS if each.per_defect)


def render(frame: pd.DataFrame, title: str) -> str:
    """Tables of percentages: the seven main metrics with their mean, the others, and those of objects if there are any.

    Args:
        frame: rows are categories, ``mean`` and perhaps ``chance``; columns are metric slugs; fractions.
        title: first line.
    """
    objects = ["", _table(frame, OBJECT)] if frame.loc["mean", [slug for slug, _, _ in OBJECT]].notna().any() else []
    return "\n".join([title, "", _table(frame, MAIN), "", _table(frame, MORE), *objects])


def render_defects(frame: pd.DataFrame) -> str:
    """A table of percentages with a row per kind of defect.

    Args:
        frame: rows are (category, defect); columns are metric slugs; fractions.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    widest = (WIDTH - 6 * len(DEFECTS)) // 2 - 1
    for name in ("category", "defect"):
        table.add_column(f"\n{name}", overflow="fold", max_width=widest)
    for _, group, name in DEFECTS:
        table.add_column(f"{group}\n{name}", justify="right", no_wrap=True)
    above = None
    for (category, defect), row in zip(frame.index, frame.to_dict("records"), strict=True):
        shown = "" if category == above else category
        table.add_row(shown, defect, *(_percent(row[slug]) for slug, _, _ in DEFECTS))
        above = category
    return _text(table)


def _table(frame: pd.DataFrame, columns: Sequence[tuple[str, str, str]]) -> str:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("\ncategory", overflow="ellipsis", no_wrap=True, max_width=WIDTH - 6 * len(columns))
    for _, group, name in columns:
        table.add_column(f"{group}\n{name}", justify="right", no_wrap=True)
    for category, row in frame.iterrows():
        if category == "mean":
            table.add_section()
        table.add_row(str(category), *(_percent(row.get(slug, math.nan)) for slug, _, _ in columns))
    return _text(table)


def _text(table: Table) -> str:
    output = io.StringIO()
    # names stand as they are, with brackets and colons
    Console(file=output, width=WIDTH, color_system=None, markup=False, emoji=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
