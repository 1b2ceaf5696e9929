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
from ader.metrics.definitions import AVERAGES, PUBLISHED, SAME, Group, Metric, in_group
from ader.metrics.exact import Images
from ader.metrics.published import count_pixels

#: Why most datasets have no object metrics.
NO_GROUP = "no image belongs to a group"


@dataclass
class Row:
    """One category: value and certified half-width per slug (fractions), or why there is none.

    A half-width is NaN where nothing is certified: the value is of another definition than the exact one.
    """

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
            self.add_from(metric, bins if metric.by_score else joined)

    def add_from(self, metric: Metric, bins: Bins) -> None:
        """Fills in one metric from counts."""
        assert metric.value is not None, metric.slug
        value, low, high = metric.value(bins)
        half = max(high - value, value - low) + bins.rounding
        self.add(metric.slug, min(max(value, 0.0), 1.0), half, metric.why_nan)

    def leave_out_group(self, group: Group, reason: str) -> None:
        """Marks the metrics of a group as undefined."""
        for metric in in_group(group):
            self.leave_out(metric.slug, reason)


def add_image_metrics(row: Row, images: Images, group: Literal["image", "object"] = "image") -> None:
    """Fills in the metrics of images, or of objects given as such; every score is known, so they are exact for the
    labels that ``images`` have."""
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
    row: Row,
    kind: str,
    score_N: npt.NDArray[np.float32],
    defective_N: npt.NDArray[np.bool_],
    weight_N: Array,
    mapped: int,
) -> None:
    """Fills in the pixel metrics as published tables define them: by other formulas than the exact ones, so that
    nothing is certified of most.

    Args:
        row: what is filled.
        kind: whose tables, see `PUBLISHED`.
        score_N, defective_N, weight_N: as for `count_pixels`.
        mapped: images that came with a map.
    """
    defective = float(defective_N.sum())
    reason = _missing(defective, len(defective_N) - defective, "pixel", _no_map(mapped))
    if reason:
        row.leave_out_group("pixel", reason)
        return
    counts, bins = count_pixels(score_N, defective_N, weight_N), None
    why_nan = f"not defined by {PUBLISHED[kind]}'s formulas for these scores"
    if not np.isfinite(score_N).all():
        why_nan = "infinite scores: no range to cut into strips"
    elif score_N.min() == score_N.max():
        why_nan = "constant scores: no range to cut into strips"
    for metric in in_group("pixel"):
        how = metric.published.get(kind)
        if how is None:
            row.leave_out(metric.slug, f"{PUBLISHED[kind]} does not define it")
        elif how == SAME:
            bins = bins or Bins.from_scores(score_N, defective_N, weight_N).joined()
            row.add_from(metric, bins)
        else:
            assert callable(how), metric.slug
            row.add(metric.slug, math.nan if counts is None else how(counts), math.nan, why_nan)


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
