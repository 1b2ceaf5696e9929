"""From states to values: all metrics of one category, with half-widths, and why some are undefined.

Letters: N images of the category.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ader.metrics.curves import Array, Bins
from ader.metrics.definitions import AVERAGES, PIXEL_METRICS, Group, in_group
from ader.metrics.exact import Images
from ader.metrics.published import count_pixels

#: Why most datasets have no object metrics.
NO_GROUP = "no image belongs to a group"
#: Why ``metric=ader`` has no value of a metric that ADer does not have.
NOT_IN_ADER = "ADer does not define it"


@dataclass
class Row:
    """One category: value and certified half-width per slug (fractions), or why there is none."""

    value: dict[str, float] = field(default_factory=dict)
    half: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)

    def add(self, slug: str, value: float, half: float, why_nan: str) -> None:
        """Fills in one metric, undefined if its value is NaN."""
        if math.isnan(value):
            self.leave_out(slug, why_nan)
        else:
            self.value[slug], self.half[slug] = value, half

    def leave_out(self, slug: str, reason: str) -> None:
        """Marks one metric as undefined."""
        self.value[slug] = self.half[slug] = math.nan
        self.undefined[slug] = reason

    def add_group(self, group: Group, bins: Bins) -> None:
        """Fills in the metrics of a group; ``bins`` hold both defective and normal ones of what it counts."""
        joined = bins.joined()
        for metric in in_group(group):
            assert metric.value is not None, metric.slug
            value, low, high = metric.value(bins if metric.by_score else joined)
            half = max(high - value, value - low) + bins.rounding
            self.add(metric.slug, min(max(value, 0.0), 1.0), half, metric.why_nan)

    def leave_out_group(self, group: Group, reason: str) -> None:
        """Marks the metrics of a group as undefined."""
        for metric in in_group(group):
            self.leave_out(metric.slug, reason)


def add_image_metrics(row: Row, images: Images, group: Literal["image", "object"] = "image") -> None:
    """Fills in the metrics of images, or of objects given as such; every score is known, so they are exact."""
    bins = Bins.from_scores(images.score_N, images.label_N)
    reason = _missing(bins.positives, bins.negatives, group, f"no {group}")
    if reason:
        row.leave_out_group(group, reason)
    else:
        row.add_group(group, bins)


def add_object_metrics(row: Row, images: Images) -> None:
    """Fills in the object metrics: an object's score is the largest of its views'."""
    if (images.group_N == "").all():
        row.leave_out_group("object", NO_GROUP)
    else:
        add_image_metrics(row, images.objects(), "object")


def add_pixel_metrics(row: Row, bins: Bins, mapped: int) -> None:
    """Fills in the pixel metrics with their half-widths. ``mapped``: images that came with a map."""
    reason = _missing(bins.positives, bins.negatives, "pixel", _no_map(mapped))
    if reason:
        row.leave_out_group("pixel", reason)
    else:
        row.add_group("pixel", bins)


def add_published_metrics(
    row: Row, score_N: npt.NDArray[np.float32], defective_N: npt.NDArray[np.bool_], weight_N: Array, mapped: int
) -> None:
    """Fills in the pixel metrics as the published ADer tables define them: exact for that definition."""
    defective = float(defective_N.sum())
    reason = _missing(defective, len(defective_N) - defective, "pixel", _no_map(mapped))
    if reason is None and not np.isfinite(score_N).all():
        reason = "infinite scores: no range to cut into strips"
    if reason is None and score_N.min() == score_N.max():
        reason = "constant scores: no range to cut into strips"
    if reason:
        row.leave_out_group("pixel", reason)
        return
    values = published_metrics(score_N, defective_N, weight_N)
    for slug in PIXEL_METRICS:
        if slug in values:
            row.add(slug, values[slug], 0.0, "not defined by ADer's formulas for these scores")
        else:
            row.leave_out(slug, NOT_IN_ADER)


def published_metrics(
    score_N: npt.NDArray[np.float32], defective_N: npt.NDArray[np.bool_], weight_N: Array
) -> dict[str, float]:
    """The pixel metrics that ADer has, by slug: fractions, NaN where undefined. Arguments: see `count_pixels`."""
    counts = count_pixels(score_N, defective_N, weight_N)
    values = {each.slug: each.published for each in in_group("pixel") if each.published is not None}
    return {slug: math.nan if counts is None else value(counts) for slug, value in values.items()}


def _no_map(mapped: int) -> str:
    """What is missing where no pixel was counted."""
    return "no pixel mask" if mapped else "no anomaly map"


def _missing(defective: float, normal: float, what: str, nothing: str) -> str | None:
    """Why there is nothing to rank: a reason if one kind is missing, ``nothing`` if both are."""
    if defective + normal == 0:
        return nothing
    if defective == 0:
        return f"no defective {what}"
    return f"no normal {what}" if normal == 0 else None


def add_averages(row: Row) -> None:
    """Fills in the averages: undefined if a component is; half-width: the mean of theirs."""
    for slug, components in AVERAGES.items():
        missing = [each for each in components if each in row.undefined]
        if missing:
            row.leave_out(slug, f"{missing[0]} is undefined: {row.undefined[missing[0]]}")
            continue
        row.value[slug] = float(np.mean([row.value[each] for each in components]))
        row.half[slug] = float(np.mean([row.half[each] for each in components]))
