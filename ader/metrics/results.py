"""From states to values: all metrics of one category, with half-widths, and why some are undefined.

Letters: N images of the category.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ader.metrics import curves, published
from ader.metrics.curves import Array, Bins
from ader.metrics.exact import Images
from ader.metrics.names import AVERAGES, IMAGE_METRICS, OBJECT_METRICS, PIXEL_METRICS

#: Why most datasets have no object metrics.
NO_GROUP = "no image belongs to a group"

_PIXEL: dict[str, Callable[[Bins], curves.Certified]] = {
    "pixel_auroc": curves.auroc,
    "pixel_ap": curves.average_precision,
    "pixel_f1max": curves.f1_max,
    "pixel_aupro": curves.aupro,
    "pixel_ioumax": curves.iou_max,
    "pixel_f1_02_08": curves.range_f1,
    "pixel_acc_02_08": curves.range_recall,
    "pixel_iou_02_08": curves.range_iou,
}
# Metrics that ask where bins lie, not only in which order.
_BY_SCORE = ("pixel_f1_02_08", "pixel_acc_02_08", "pixel_iou_02_08")


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


def add_image_metrics(row: Row, images: Images) -> None:
    """Fills in the image metrics, which are exact."""
    reason = _missing_image(images.label_N, "image")
    if reason:
        row.leave_out(IMAGE_METRICS, reason)
        return
    bins = Bins.from_scores(images.score_N, images.label_N)
    defective, normal = images.score_N[images.label_N], images.score_N[~images.label_N]
    row.value.update(
        image_auroc=curves.auroc(bins).value,
        image_ap=curves.average_precision(bins).value,
        image_f1max=curves.f1_max(bins).value,
        image_fpr95=curves.fpr_at_95_tpr(defective, normal),
        image_pg2=curves.presorted_good(defective, normal),
        image_pb2=curves.presorted_bad(defective, normal),
    )
    row.half.update(dict.fromkeys(IMAGE_METRICS, 0.0))


def add_object_metrics(row: Row, images: Images) -> None:
    """Fills in the object metrics: an object's score is the largest of its views'."""
    if (images.group_N == "").all():
        row.leave_out(OBJECT_METRICS, NO_GROUP)
        return
    objects = images.objects()
    reason = _missing_image(objects.label_N, "object")
    if reason:
        row.leave_out(OBJECT_METRICS, reason)
        return
    bins = Bins.from_scores(objects.score_N, objects.label_N)
    row.value.update(
        object_auroc=curves.auroc(bins).value,
        object_ap=curves.average_precision(bins).value,
        object_f1max=curves.f1_max(bins).value,
    )
    row.half.update(dict.fromkeys(OBJECT_METRICS, 0.0))


def _missing_image(label_N: npt.NDArray[np.bool_], what: str) -> str | None:
    if len(label_N) == 0:
        return f"no {what}"
    if not label_N.any():
        return f"no defective {what}"
    return f"no normal {what}" if label_N.all() else None


def add_pixel_metrics(row: Row, bins: Bins, mapped: int) -> None:
    """Fills in the pixel metrics with their half-widths. ``mapped``: images that came with a map."""
    reason = _missing_pixel(bins.positives, bins.negatives, mapped)
    if reason:
        row.leave_out(PIXEL_METRICS, reason)
        return
    joined = bins.joined()
    for slug, metric in _PIXEL.items():
        value, low, high = metric(bins if slug in _BY_SCORE else joined)
        row.value[slug] = min(max(value, 0.0), 1.0)
        row.half[slug] = max(high - value, value - low) + bins.rounding
        if math.isnan(value):
            row.leave_out((slug,), "infinite scores: no range to take 0.2 to 0.8 of")


def add_published_metrics(
    row: Row, score_N: npt.NDArray[np.float32], defective_N: npt.NDArray[np.bool_], weight_N: Array, mapped: int
) -> None:
    """Fills in the pixel metrics as the published ADer tables define them: exact for that definition."""
    defective = float(defective_N.sum())
    reason = _missing_pixel(defective, len(defective_N) - defective, mapped)
    if reason is None and not np.isfinite(score_N).all():
        reason = "infinite scores: no range to cut into strips"
    if reason is None and score_N.min() == score_N.max():
        reason = "constant scores: no range to cut into strips"
    if reason:
        row.leave_out(PIXEL_METRICS, reason)
        return
    for slug, value in published.pixel_metrics(score_N, defective_N, weight_N).items():
        row.value[slug], row.half[slug] = value, 0.0
        if math.isnan(value):
            row.leave_out((slug,), "not defined by ADer's formulas for these scores")


def _missing_pixel(defective: float, normal: float, mapped: int) -> str | None:
    """Why there can be no pixel metrics."""
    if defective + normal == 0:
        return "no pixel mask" if mapped else "no anomaly map"
    if defective == 0:
        return "no defective pixel"
    return "no normal pixel" if normal == 0 else None


def add_averages(row: Row) -> None:
    """Fills in the averages: undefined if a component is; half-width: the mean of theirs."""
    for slug, components in AVERAGES.items():
        missing = [each for each in components if each in row.undefined]
        if missing:
            row.leave_out((slug,), f"{missing[0]} is undefined: {row.undefined[missing[0]]}")
            continue
        row.value[slug] = float(np.mean([row.value[each] for each in components]))
        row.half[slug] = float(np.mean([row.half[each] for each in components]))
