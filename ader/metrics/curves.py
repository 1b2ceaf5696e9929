"""Metrics as pure functions of counts per bin, and what the bins can hide.

Every function takes `Bins`, in descending order of score. Exact evaluation is the case in which every
distinct score is its own bin: ties then get scikit-learn's value. A wider bin hides the order of its pixels, so
that every metric comes with the smallest and the largest value that any order (ties included) could give.

Letters: K bins, P defective and N normal pixels in total; a curve "above" bin k counts the bins before it.
Definitions: AP and F1 as in scikit-learn, AUPRO after Bergmann et al., "Uninformed Students" (2020), section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import digamma

Array = npt.NDArray[np.float64]

AUPRO_LIMIT = 0.3
RANGE_SHARES = tuple(tenth / 10 for tenth in range(2, 9))
PRESORTED = 0.02  # share of one kind of image that may be lost when images are sorted without being looked at


class Certified(NamedTuple):
    """A value, and the smallest and largest that any order of the pixels inside wide bins could give."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bins:
    """Counts per bin, bins in descending order of score.

    ``defective_K`` and ``normal_K`` count pixels (or images); ``weight_K`` sums 1 / (area of the region) over
    the defective pixels. Every score of a bin lies in [``low_K``, ``high_K``]; neighboring bins do not
    overlap; ``high_K[0]`` and ``low_K[-1]`` are the largest and the smallest score there is. ``rounding``
    bounds what floating-point sums can have lost in any metric (a fraction).
    """

    defective_K: Array
    normal_K: Array
    weight_K: Array
    low_K: Array
    high_K: Array
    rounding: float = 0.0

    @classmethod
    def from_scores(
        cls,
        score_N: npt.NDArray[np.floating],
        defective_N: npt.NDArray[np.bool_],
        weight_N: Array | None = None,
    ) -> Bins:
        """One bin per distinct score. ``weight_N`` is 1 / area for defective pixels, else ignored."""
        value_K, bin_N = np.unique(score_N, return_inverse=True)
        bin_N = bin_N.reshape(-1)
        weight = np.zeros(len(score_N)) if weight_N is None else np.where(defective_N, weight_N, 0.0)
        normal_K, defective_K, weight_K = (
            np.bincount(bin_N, weights=each, minlength=len(value_K))[::-1].astype(np.float64)
            for each in (~defective_N, defective_N, weight)
        )
        edge_K = value_K[::-1].astype(np.float64)
        return cls(defective_K, normal_K, weight_K, edge_K, edge_K)

    @classmethod
    def from_two(cls, defective_N: npt.NDArray[np.floating], normal_N: npt.NDArray[np.floating]) -> Bins:
        """One bin per distinct score of defective and normal images, or pixels without weights."""
        label_N = np.arange(len(defective_N) + len(normal_N)) < len(defective_N)
        return cls.from_scores(np.concatenate([defective_N, normal_N]), label_N)

    def scores(self) -> tuple[Array, Array]:
        """The scores behind the bins, defective and normal ones, in descending order. No bin may be wide."""
        assert not self.wide_K.any(), "the scores inside a wide bin are not known"
        return np.repeat(self.low_K, self.defective_K.astype(int)), np.repeat(self.low_K, self.normal_K.astype(int))

    def joined(self) -> Bins:
        """Neighboring bins without a defective pixel as one: no curve depends on the order of normal pixels alone.

        Fewer bins, the same values and bounds of all metrics that do not ask where bins lie.
        """
        empty_K = self.defective_K == 0
        start_K = np.append(True, ~(empty_K[1:] & empty_K[:-1]))[: len(empty_K)]
        first = np.flatnonzero(start_K)
        last = np.append(first[1:], len(empty_K)) - 1
        defective_K, normal_K, weight_K = (
            np.add.reduceat(each, first) for each in (self.defective_K, self.normal_K, self.weight_K)
        )
        return Bins(defective_K, normal_K, weight_K, self.low_K[last], self.high_K[first], self.rounding)

    @cached_property
    def wide_K(self) -> npt.NDArray[np.bool_]:
        """Whether the bin can hold more than one distinct score."""
        return self.low_K < self.high_K

    @cached_property
    def tp_K(self) -> Array:
        """Defective pixels down to and including the bin."""
        return np.cumsum(self.defective_K)

    @cached_property
    def fp_K(self) -> Array:
        """Normal pixels down to and including the bin."""
        return np.cumsum(self.normal_K)

    @cached_property
    def tp_above_K(self) -> Array:
        """Defective pixels above the bin."""
        return self.tp_K - self.defective_K

    @cached_property
    def fp_above_K(self) -> Array:
        """Normal pixels above the bin."""
        return self.fp_K - self.normal_K

    @cached_property
    def positives(self) -> float:
        """All defective pixels, P."""
        return float(self.defective_K.sum())

    @cached_property
    def negatives(self) -> float:
        """All normal pixels, N."""
        return float(self.normal_K.sum())


def auroc(bins: Bins) -> Certified:
    """Area under TPR(FPR), trapezoidal: inside a bin every pair counts one half.

    A wide bin's pairs may all be in the wrong or all in the right order.
    """
    pairs = bins.positives * bins.negatives
    value = float(np.dot(bins.normal_K, bins.tp_above_K + bins.defective_K / 2)) / pairs
    half = float(np.dot(bins.defective_K[bins.wide_K], bins.normal_K[bins.wide_K])) / 2 / pairs
    return Certified(value, value - half, value + half)


def average_precision(bins: Bins) -> Certified:
    """Step-wise average precision; the middle of what is possible where bins are wide.

    Worst: the normal pixels of a bin first, then its defective pixels with distinct scores. Best: all
    defective pixels first, and tied. Tied, because step-wise AP gives tied pixels the precision at the end
    of the tie: more than the sum over distinct scores, so the digamma form with f = FP above the bin is no
    upper bound.
    """
    k = bins.defective_K > 0
    p, q, tp, fp = bins.defective_K[k], bins.normal_K[k], bins.tp_above_K[k], bins.fp_above_K[k]
    tied = p * ((tp + p) / (tp + p + fp + q))
    worst = np.where(bins.wide_K[k], _sum_of_precisions(p, tp, fp + q), tied)
    best = np.where(bins.wide_K[k], p * ((tp + p) / (tp + p + fp)), tied)
    return _middle(float(worst.sum()) / bins.positives, float(best.sum()) / bins.positives)


def _sum_of_precisions(p: Array, tp: Array, f: Array) -> Array:
    """Sum over i = 1..p of (tp + i) / (tp + i + f): p defective pixels in a row, after f normal ones."""
    return p - f * _digamma_step(tp + f + 1, p)


def _digamma_step(x: Array, p: Array) -> Array:
    """psi(x + p) - psi(x), accurate also where both are large and nearly equal.

    From x = 100 on by the asymptotic series of psi, whose first term left out is below 1 / (252 x^6).
    """
    y = x + p
    series = np.log1p(p / x) + p / (2 * x * y) + (x**-2 - y**-2) / 12 - (x**-4 - y**-4) / 120
    small = x < 100
    series[small] = digamma(y[small]) - digamma(x[small])
    return series


def _f1(tp: Array, fp: Array, positives: float) -> Array:
    return 2 * tp / (tp + fp + positives)


def _iou(tp: Array, fp: Array, positives: float) -> Array:
    return tp / (fp + positives)


def _recall(tp: Array, fp: Array, positives: float) -> Array:
    return tp / positives


Score = Callable[[Array, Array, float], Array]


def f1_max(bins: Bins) -> Certified:
    """Largest F1 over all thresholds: at the bins' lower edges, each of which can be reached."""
    return _largest(bins, _f1)


def iou_max(bins: Bins) -> Certified:
    """Largest TP / (TP + FP + FN) over all thresholds."""
    return _largest(bins, _iou)


def _largest(bins: Bins, score: Score) -> Certified:
    """Best case inside a wide bin: a threshold above all its normal, below all its defective pixels."""
    value = float(score(bins.tp_K, bins.fp_K, bins.positives).max())
    fp_K = np.where(bins.wide_K, bins.fp_above_K, bins.fp_K)
    return Certified(value, value, float(score(bins.tp_K, fp_K, bins.positives).max()))


def aupro(bins: Bins, limit: float = AUPRO_LIMIT) -> Certified:
    """Area under PRO(FPR) up to FPR = ``limit``, linear between points, divided by the limit.

    The true curve is monotone, so inside a wide bin it lies between PRO before and after the whole bin, also
    where the limit cuts the bin: there the full rise of the bin may come before the limit, or after it.
    """
    total = float(bins.weight_K.sum())
    # In pixels, so that a bin's width is exact; only the limit is not a whole number.
    width_K = np.clip(limit * bins.negatives - bins.fp_above_K, 0.0, bins.normal_K)
    above_K = np.cumsum(bins.weight_K) - bins.weight_K
    linear_K = above_K + width_K / np.maximum(bins.normal_K, 1.0) * bins.weight_K / 2
    low_K = np.where(bins.wide_K, above_K, linear_K)
    high_K = np.where(bins.wide_K, above_K + bins.weight_K, linear_K)
    scale = limit * bins.negatives * total
    return Certified(*(float(np.dot(width_K, each)) / scale for each in (linear_K, low_K, high_K)))


def range_f1(bins: Bins) -> Certified:
    """Mean F1 at 0.2, 0.3, ... 0.8 of the score range; the middle of what is possible where bins are wide."""
    return _over_range(bins, _f1)


def range_recall(bins: Bins) -> Certified:
    """Mean recall ("Acc" in the InvAD paper) at 0.2, 0.3, ... 0.8 of the score range."""
    return _over_range(bins, _recall)


def range_iou(bins: Bins) -> Certified:
    """Mean IoU at 0.2, 0.3, ... 0.8 of the score range."""
    return _over_range(bins, _iou)


def _middle(low: float, high: float) -> Certified:
    return Certified((low + high) / 2, low, high)


def range_thresholds(smallest: float, largest: float) -> Array:
    """The scores at 0.2, 0.3, ... 0.8 of [smallest, largest], in float64; a score must exceed them."""
    return smallest + np.array(RANGE_SHARES) * (largest - smallest)


def has_finite_range(bins: Bins) -> bool:
    """Whether scores can be normalized to [0, 1]: not if the smallest or the largest is infinite."""
    return bool(np.isfinite(bins.low_K[-1]) and np.isfinite(bins.high_K[0]))


def _over_range(bins: Bins, score: Score) -> Certified:
    """Mean of ``score`` at the range's thresholds, at the worst and best split of the bins they fall into.

    NaN if the range is infinite. Constant scores exceed no threshold: 0.
    """
    if not has_finite_range(bins):
        return _middle(float("nan"), float("nan"))
    threshold_T = range_thresholds(bins.low_K[-1], bins.high_K[0])
    # Bins wholly above a threshold, and bins that reach above it: edges are sorted, so counting is searching.
    whole_T = len(bins.low_K) - np.searchsorted(bins.low_K[::-1], threshold_T, side="right")
    reach_T = len(bins.high_K) - np.searchsorted(bins.high_K[::-1], threshold_T, side="right")
    tp, fp = np.append(0.0, bins.tp_K), np.append(0.0, bins.fp_K)
    worst = score(tp[whole_T], fp[reach_T], bins.positives)
    best = score(tp[reach_T], fp[whole_T], bins.positives)
    return _middle(float(worst.mean()), float(best.mean()))


def quantile(score_N: Array, share: float) -> float:
    """Linearly interpolated quantile, as ``numpy.quantile``, but defined where infinite scores tie."""
    ordered = np.sort(score_N)
    position = share * (len(ordered) - 1)
    low, high = ordered[int(np.floor(position))], ordered[int(np.ceil(position))]
    if low == high or np.isinf(low):
        return float(low)
    return float(np.quantile(ordered, share)) if np.isfinite(high) else float(high)


def fpr_at_95_tpr(bins: Bins) -> Certified:
    """SegAD's FPR@95TPR: share of normal scores at or above the 5 % quantile of the defective scores. No wide bins."""
    defective_N, normal_N = bins.scores()
    return _exact(1.0 - float(np.mean(normal_N < quantile(defective_N, 0.05))))


def presorted_good(bins: Bins) -> Certified:
    """PG: share of normal scores below the 2 % quantile of the defective scores. No wide bins."""
    defective_N, normal_N = bins.scores()
    return _exact(float(np.mean(normal_N < quantile(defective_N, PRESORTED))))


def presorted_bad(bins: Bins) -> Certified:
    """PB: share of defective scores above the 98 % quantile of the normal scores. No wide bins."""
    defective_N, normal_N = bins.scores()
    return _exact(float(np.mean(defective_N > quantile(normal_N, 1 - PRESORTED))))


def _exact(value: float) -> Certified:
    return Certified(value, value, value)
