"""The per-category tables of one result, readable at 80 columns, on a terminal and in a log file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from ader.metrics import AVERAGES

#: Column width of the printed tables.
WIDTH = 80

MAIN = (
    ("image_auroc", "image", "AUROC"),
    ("image_ap", "image", "AP"),
    ("image_f1max", "image", "F1max"),
    ("pixel_auroc", "pixel", "AUROC"),
    ("pixel_ap", "pixel", "AP"),
    ("pixel_f1max", "pixel", "F1max"),
    ("pixel_aupro", "pixel", "AUPRO"),
    ("mad", "", "mAD"),
)
MORE = (
    ("image_fpr95", "image", "FPR95"),
    ("image_pg2", "image", "PG2"),
    ("image_pb2", "image", "PB2"),
    ("pixel_ioumax", "pixel", "IoUmx"),
    ("pixel_f1_02_08", ".2-.8", "F1"),
    ("pixel_acc_02_08", ".2-.8", "Acc"),
    ("pixel_iou_02_08", ".2-.8", "IoU"),
    ("mad_image", "mAD", "image"),
    ("mad_pixel", "mAD", "pixel"),
    ("mad_02_08", "mAD", ".2-.8"),
)
OBJECT = (
    ("object_auroc", "object", "AUROC"),
    ("object_ap", "object", "AP"),
    ("object_f1max", "object", "F1max"),
)
DEFECTS = (
    ("image_auroc", "image", "AUROC"),
    ("pixel_auroc", "pixel", "AUROC"),
    ("pixel_ap", "pixel", "AP"),
    ("pixel_aupro", "pixel", "AUPRO"),
)


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


def chance(counts: pd.DataFrame) -> pd.Series[float]:
    """What random scores would reach, averaged over categories: the row to compare a table with.

    Args:
        counts: the evaluator's, with columns ``normal``, ``defective`` (images) and ``normal_pixels``,
            ``defective_pixels``.

    Returns:
        Expected values for many images: AUROC 1/2, AP and IoU-max the share of positives p, F1-max 2p / (1 + p)
        (calling everything defective), AUPRO 0.3 / 2 (PRO = FPR), and the quantile metrics their quantile.
    """
    image = counts["defective"] / (counts["normal"] + counts["defective"])
    pixel = counts["defective_pixels"] / (counts["normal_pixels"] + counts["defective_pixels"])
    image, pixel = image.where((image > 0) & (image < 1)), pixel.where((pixel > 0) & (pixel < 1))
    row = {
        "image_auroc": 0.5 if image.notna().any() else math.nan,
        "image_ap": image.mean(),
        "image_f1max": (2 * image / (1 + image)).mean(),
        "image_fpr95": 0.95 if image.notna().any() else math.nan,
        "image_pg2": 0.02 if image.notna().any() else math.nan,
        "image_pb2": 0.02 if image.notna().any() else math.nan,
        "pixel_auroc": 0.5 if pixel.notna().any() else math.nan,
        "pixel_ap": pixel.mean(),
        "pixel_f1max": (2 * pixel / (1 + pixel)).mean(),
        "pixel_aupro": 0.15 if pixel.notna().any() else math.nan,
        "pixel_ioumax": pixel.mean(),
    }
    for slug, parts in AVERAGES.items():
        row[slug] = float(np.mean([row.get(part, math.nan) for part in parts]))
    series: pd.Series[float] = pd.Series(row, name="chance", dtype=float)
    return series


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
