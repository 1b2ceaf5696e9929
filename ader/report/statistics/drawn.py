"""Metrics of drawn test images: for many draws at once, from scores of images and from sketches of their pixels.

Letters: B draws, N images of a category, P defective and Q normal ones in this order, K distinct scores and J bins of
pixels' scores, both in descending order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ader.metrics.curves import AUPRO_LIMIT
from ader.metrics.definitions import AVERAGES
from ader.results.pixels import Sketch

F4 = npt.NDArray[np.float32]
F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

#: Bins that a category's pixels are counted in at most, each with equally many blocks of its images' sketches.
BINS = 1024

#: Parts that a block of more pixels is cut into.
PARTS = 4


class Curves(NamedTuple):
    """Counts down to and including each score, (B, K): defective and normal images, or pixels.

    Attributes:
        tp_BK, fp_BK: counts.
        regions_BK: of pixels only: shares of regions.
    """

    tp_BK: F8
    fp_BK: F8
    regions_BK: F8 | None = None


@dataclass(frozen=True)
class Pixels:
    """Pixels of a category's images in one run.

    Attributes:
        defective_NJ, normal_NJ: pixels of each image in each bin.
        regions_NJ: sums of 1 / (area of the region) over the defective ones.
    """

    defective_NJ: F8
    normal_NJ: F8
    regions_NJ: F8

    @classmethod
    def of(cls, sketches: Sequence[Sketch | None], most: int = BINS) -> Pixels | None:
        """From sketches; None where they have no defective or no normal pixel. An image without one has no pixels.

        Args:
            sketches: of the defective images, then of the normal ones.
            most: bins.
        """
        kept = [(place, each) for place, each in enumerate(sketches) if each is not None]
        if not kept:
            return None
        image_X, value_X, counts_3X = (
            np.concatenate(parts, axis=-1) for parts in zip(*(_listed(*each) for each in kept), strict=True)
        )
        if not (counts_3X[0].any() and counts_3X[1].any()):
            return None
        there_X = counts_3X.any(axis=0)
        value_V, order_X = np.unique(value_X[there_X], return_inverse=True)
        bins = min(most, len(value_V))
        place_X = (len(value_V) - 1 - order_X) * bins // len(value_V) + image_X[there_X] * bins
        size = len(sketches), bins

        def table(count_X: F8) -> F8:
            counted = np.bincount(place_X, weights=count_X[there_X], minlength=size[0] * bins)
            return counted.reshape(size).astype(np.float64, copy=False)

        return cls(table(counts_3X[0]), table(counts_3X[1]), table(counts_3X[2]))

    def curves(self, times_BN: F8) -> Curves:
        """Of draws that have each image so many times."""
        of = (np.cumsum(times_BN @ each, axis=1) for each in (self.defective_NJ, self.normal_NJ, self.regions_NJ))
        return Curves(*of)


def _listed(place: int, sketch: Sketch) -> tuple[I8, F8, F8]:
    """Of an image's blocks: its place, their scores, and (defective pixels, normal pixels, shares of regions)."""
    normal_X, (normal_count_X,) = _parts(sketch.normal_value_K, sketch.normal_count_K)
    defective_X, (defective_count_X, weight_X) = _parts(
        sketch.defective_value_L, sketch.defective_count_L, sketch.defective_weight_L
    )
    bad, size = len(defective_X), len(defective_X) + len(normal_X)
    counts_3X = np.zeros((3, size))
    counts_3X[0, :bad], counts_3X[1, bad:], counts_3X[2, :bad] = defective_count_X, normal_count_X, weight_X
    return np.full(size, place), np.concatenate([defective_X, normal_X]), counts_3X


def _parts(value_K: F4, count_K: I8, *weights: F4) -> tuple[F8, list[F8]]:
    """Blocks cut into ``PARTS`` each, with scores between those of the blocks around them: whole ones would jump, and
    the largest F1 would lie between jumps. A few pixels stay where they are."""
    there_K = count_K > 0
    columns: list[npt.NDArray[Any]] = [value_K, count_K, *weights]
    given: list[F8] = [each[there_K].astype(np.float64) for each in columns]
    if not there_K.any():
        return given[0], given[1:]
    end_K, count_K = np.cumsum(count_K[there_K]), count_K[there_K]
    rank_K = end_K - 1 - count_K // 2
    within = (np.arange(PARTS) + 0.5) / PARTS
    rank_KX = (end_K - count_K)[:, None] + count_K[:, None] * within - 0.5
    with np.errstate(invalid="ignore"):
        value_KX = np.interp(rank_KX, rank_K, given[0])
    value_KX = np.where((count_K[:, None] > PARTS) & np.isfinite(value_KX), value_KX, given[0][:, None])
    return value_KX.reshape(-1), [np.repeat(each / PARTS, PARTS) for each in given[1:]]


@dataclass(frozen=True)
class Category:
    """One run's scores of a category; both runs have their images in the same order.

    Attributes:
        defective_P, normal_Q: scores of images.
        pixels: of the same images, defective ones first; None: unknown.
    """

    defective_P: F8
    normal_Q: F8
    pixels: Pixels | None = None

    def metrics(self, place_BP: I8, place_BQ: I8, slugs: Sequence[str]) -> dict[str, F8]:
        """Metrics of draws, as fractions: (draws,) each; those of `ader.metrics` for all draws at once.

        Args:
            place_BP, place_BQ: positions of the drawn defective and normal images.
            slugs: of ``RESAMPLED``, no averages.
        """
        found: dict[str, F8] = {}
        if set(slugs) & set(BY_ORDER):
            curves = self._curves(place_BP, place_BQ)
            found |= {slug: BY_ORDER[slug](curves) for slug in slugs if slug in BY_ORDER}
        if set(slugs) & set(BY_SCORE):
            drawn = self.defective_P[place_BP], self.normal_Q[place_BQ]
            found |= {slug: BY_SCORE[slug](*drawn) for slug in slugs if slug in BY_SCORE}
        if set(slugs) & set(BY_PIXEL):
            assert self.pixels is not None, "asked for pixels that are not known"
            sizes = len(self.defective_P), len(self.normal_Q)
            times = (_counts(places, size) for places, size in zip((place_BP, place_BQ), sizes, strict=True))
            curves = self.pixels.curves(np.concatenate(list(times), axis=1))
            with np.errstate(invalid="ignore"):  # draws without a defective pixel
                found |= {slug: BY_PIXEL[slug](curves) for slug in slugs if slug in BY_PIXEL}
        return found

    def _curves(self, place_BP: I8, place_BQ: I8) -> Curves:
        """Of images."""
        value_K, bin_N = np.unique(np.concatenate([self.defective_P, self.normal_Q]), return_inverse=True)
        bin_N = len(value_K) - 1 - bin_N.reshape(-1)
        bins = bin_N[: len(self.defective_P)], bin_N[len(self.defective_P) :]
        tp_BK, fp_BK = (
            _counts(bin_[place], len(value_K)) for bin_, place in zip(bins, (place_BP, place_BQ), strict=True)
        )
        return Curves(np.cumsum(tp_BK, axis=1), np.cumsum(fp_BK, axis=1))


def _counts(bin_BN: I8, bins: int) -> F8:
    """How often each bin is in each row."""
    draws = len(bin_BN)
    flat = (np.arange(draws)[:, None] * bins + bin_BN).reshape(-1)
    return np.bincount(flat, minlength=draws * bins).reshape(draws, bins).astype(np.float64)


def _auroc(curves: Curves) -> F8:
    tp_BK, fp_BK, _ = curves
    step_BK = np.diff(fp_BK, axis=1, prepend=0.0)
    middle_BK = tp_BK - np.diff(tp_BK, axis=1, prepend=0.0) / 2  # ties count one half
    return np.asarray((step_BK * middle_BK).sum(axis=1) / (tp_BK[:, -1] * fp_BK[:, -1]))


def _average_precision(curves: Curves) -> F8:
    tp_BK, fp_BK, _ = curves
    precision_BK = tp_BK / np.maximum(tp_BK + fp_BK, 1.0)
    return np.asarray((np.diff(tp_BK, axis=1, prepend=0.0) * precision_BK).sum(axis=1) / tp_BK[:, -1])


def _f1_max(curves: Curves) -> F8:
    tp_BK, fp_BK, _ = curves
    return np.asarray((2 * tp_BK / (tp_BK + fp_BK + tp_BK[:, -1:])).max(axis=1))


def _iou_max(curves: Curves) -> F8:
    tp_BK, fp_BK, _ = curves
    return np.asarray((tp_BK / (fp_BK + tp_BK[:, -1:])).max(axis=1))


def _aupro(curves: Curves) -> F8:
    """Linear between points, as ``ader.metrics.curves.aupro``."""
    _, fp_BK, regions_BK = curves
    assert regions_BK is not None, "images have no regions"
    area_B = AUPRO_LIMIT * fp_BK[:, -1]
    step_BK, rise_BK = (np.diff(each, axis=1, prepend=0.0) for each in (fp_BK, regions_BK))
    width_BK = np.clip(area_B[:, None] - (fp_BK - step_BK), 0.0, step_BK)
    height_BK = regions_BK - rise_BK + width_BK / np.maximum(step_BK, 1.0) * rise_BK / 2
    return np.asarray((width_BK * height_BK).sum(axis=1) / (area_B * regions_BK[:, -1]))


def _fpr95(defective_BP: F8, normal_BQ: F8) -> F8:
    return np.asarray(np.mean(normal_BQ >= np.quantile(defective_BP, 0.05, axis=1)[:, None], axis=1))


def _pg2(defective_BP: F8, normal_BQ: F8) -> F8:
    return np.asarray(np.mean(normal_BQ < np.quantile(defective_BP, 0.02, axis=1)[:, None], axis=1))


def _pb2(defective_BP: F8, normal_BQ: F8) -> F8:
    return np.asarray(np.mean(defective_BP > np.quantile(normal_BQ, 0.98, axis=1)[:, None], axis=1))


#: Of counts of images at or above each score; of scores; of counts of pixels.
BY_ORDER: Mapping[str, Callable[[Curves], F8]] = {
    "image_auroc": _auroc,
    "image_ap": _average_precision,
    "image_f1max": _f1_max,
}
BY_SCORE: Mapping[str, Callable[[F8, F8], F8]] = {"image_fpr95": _fpr95, "image_pg2": _pg2, "image_pb2": _pb2}
BY_PIXEL: Mapping[str, Callable[[Curves], F8]] = {
    "pixel_auroc": _auroc,
    "pixel_ap": _average_precision,
    "pixel_f1max": _f1_max,
    "pixel_aupro": _aupro,
    "pixel_ioumax": _iou_max,
}

#: Metrics that can be computed of drawn images.
COMPUTED = (*BY_ORDER, *BY_SCORE, *BY_PIXEL)
RESAMPLED = (*COMPUTED, *(slug for slug, parts in AVERAGES.items() if {*parts} <= {*COMPUTED}))


def needs_pixels(slug: str) -> bool:
    """Whether a metric is, or is a mean with, one of pixels."""
    return not {*AVERAGES.get(slug, (slug,))}.isdisjoint(BY_PIXEL)
