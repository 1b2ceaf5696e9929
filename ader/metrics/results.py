"""From states to values: all metrics of one category, with half-widths, and why some are undefined.

Letters: N images of the category.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ader.metrics import curves
from ader.metrics.curves import Bins
from ader.metrics.names import AVERAGES, IMAGE_METRICS, PIXEL_METRICS

_PIXEL: dict[str, tuple[Callable[[Bins], float], Callable[[Bins], curves.Bounds]]] = {
    "pixel_auroc": (curves.auroc, curves.auroc_bounds),
    "pixel_ap": (curves.average_precision, curves.average_precision_bounds),
    "pixel_f1max": (curves.f1_max, curves.f1_max_bounds),
    "pixel_aupro": (curves.aupro, curves.aupro_bounds),
    "pixel_ioumax": (curves.iou_max, curves.iou_max_bounds),
    "pixel_f1_02_08": (curves.range_f1, curves.range_f1_bounds),
    "pixel_acc_02_08": (curves.range_recall, curves.range_recall_bounds),
    "pixel_iou_02_08": (curves.range_iou, curves.range_iou_bounds),
}


@dataclass
class Row:
    """One category: value and certified half-width per slug (fractions), or why there is none."""

    value: dict[str, float] = field(default_factory=dict)
    half: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)

    def leave_out(self, slugs: tuple[str, ...], reason: str) -> None:
        """Marks metrics as undefined."""
        for slug in slugs:
            self.value[slug] = self.half[slug] = math.nan
            self.undefined[slug] = reason


def add_image_metrics(row: Row, score_N: npt.NDArray[np.float64], label_N: npt.NDArray[np.bool_]) -> None:
    """Fills in the image metrics, which are exact. ``label_N``: True where defective."""
    reason = _missing_image(label_N)
    if reason:
        row.leave_out(IMAGE_METRICS, reason)
        return
    bins = Bins.from_scores(score_N, label_N)
    defective, normal = score_N[label_N], score_N[~label_N]
    row.value.update(
        image_auroc=curves.auroc(bins),
        image_ap=curves.average_precision(bins),
        image_f1max=curves.f1_max(bins),
        image_fpr95=curves.fpr_at_95_tpr(defective, normal),
        image_pg2=curves.presorted_good(defective, normal),
        image_pb2=curves.presorted_bad(defective, normal),
    )
    row.half.update(dict.fromkeys(IMAGE_METRICS, 0.0))


def _missing_image(label_N: npt.NDArray[np.bool_]) -> str | None:
    if len(label_N) == 0:
        return "no image"
    if not label_N.any():
        return "no defective image"
    return "no normal image" if label_N.all() else None


def add_pixel_metrics(row: Row, bins: Bins, mapped: int) -> None:
    """Fills in the pixel metrics with their half-widths. ``mapped``: images that came with a map."""
    reason = _missing_pixel(bins, mapped)
    if reason:
        row.leave_out(PIXEL_METRICS, reason)
        return
    for slug, (metric, bounds) in _PIXEL.items():
        value, (low, high) = metric(bins), bounds(bins)
        row.value[slug] = min(max(value, 0.0), 1.0)
        row.half[slug] = max(high - value, value - low) + bins.rounding
        if math.isnan(value):
            row.leave_out((slug,), "infinite scores: no range to take 0.2 to 0.8 of")


def _missing_pixel(bins: Bins, mapped: int) -> str | None:
    if len(bins.defective_K) == 0:
        return "no pixel mask" if mapped else "no anomaly map"
    if bins.positives == 0:
        return "no defective pixel"
    return "no normal pixel" if bins.negatives == 0 else None


def add_averages(row: Row) -> None:
    """Fills in the averages: undefined if a component is; half-width: the mean of theirs."""
    for slug, components in AVERAGES.items():
        missing = [each for each in components if each in row.undefined]
        if missing:
            row.leave_out((slug,), f"{missing[0]} is undefined: {row.undefined[missing[0]]}")
            continue
        row.value[slug] = float(np.mean([row.value[each] for each in components]))
        row.half[slug] = float(np.mean([row.half[each] for each in components]))
