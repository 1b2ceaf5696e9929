"""``metric=ader`` and ``metric=invad``: pixel metrics as published tables were computed, to compare with them.

Source: ADer paper, section 3.6 "Efficient evaluation"; https://github.com/zhangzjn/ADer at commit 902937a,
``util/metric.py`` (``Evaluator.run`` with ``use_adeval=True``); ADEval 1.1.0 with 50 strips, its accumulator for
NumPy. Written from the definitions, no code taken. All functions take one category.

AUROC, AP and AUPRO. Thresholds are the 51 edges of 50 strips of equal width from the smallest to the largest
score; a pixel is predicted defective if its score >= edge. Areas are trapezoidal, AP's too. No point is added at
the ends of the curves:

- Lowest edge: the smallest score, so everything is predicted: (1, 1), or for AP (recall 1, share of defective).
- Highest edge: the largest score, up to float32 rounding. The curves start at the FPR, TPR and recall of the
  pixels that reach it, not at 0, and the area to the left is lost: a perfect map loses as much AP as is the share
  of defective pixels on the maximum. If rounding puts the edge above the largest score, nothing is predicted there
  and the curves do start at FPR, TPR and recall 0, with precision 1.
- AUPRO ends at FPR 0.3, linear between the points beside it. If more than 0.3 of the normal pixels reach the
  highest edge there is no curve up to 0.3: NaN (ADEval stops with an IndexError).

F1, recall ("Acc") and IoU. Scores are min-max normalized in float32; a pixel is predicted if its normalized score
> threshold, compared in float32 as NumPy 1 did (ADer pins torch 2.1.2, which needs it; NumPy 2 compares in float64,
so that a score on a rounded threshold may fall on its other side). ADer's 1e-8 in the denominators stays.

Differences from upstream:

- ADer runs ADEval on CUDA, where pixels equal to the maximum are counted twice (in the last strip and above it);
  here once. Where a share s of a category's defective or normal pixels is at the maximum, rates differ by at most s.
- On CUDA the highest edge is the maximum itself. Where float32 rounding lifts it above a maximum that only normal
  pixels reach, precision starts at 1 here and at 0 there: AP differs by half the recall at the edge below.
- CUDA finds a pixel's strip by a division, here by comparing with the edges; and some of ADer's methods (those
  whose maps ``Evaluator.cal_anomaly_map`` adds up) keep maps in float64, here always float32. Both move only scores
  within float32 rounding of an edge or threshold.
- Region weights are float64 here, float32 in ADEval: below 1e-7 in AUPRO.
- Undefined is NaN (see `count_pixels`), where ADEval gives NaN or stops and ADer's F1, recall and IoU are 0. Where
  PRO is 0 on both sides of 0.3, AUPRO is 0 here and NaN in ADEval.

``metric=invad``. The tables in the papers of InvAD, InvAD-lite and ViTAD were made without ADEval (their own
configurations in ADer: ``use_adeval`` unset, ``max_step_aupro=100``). AUROC and AP are scikit-learn's of every score,
the exact ones. F1, recall and IoU are as above. AUPRO (``cal_pro_score``) has 100 thresholds in equal steps from the
smallest score, without the largest (101 where rounding leaves room); a pixel is predicted if its score > threshold. Of
the points with FPR < 0.3, FPR is min-max rescaled to [0, 1] and the area below is trapezoidal: nothing is added at the
ends, and PRO is not followed up to 0.3. This is near the exact AUPRO where many thresholds have FPR < 0.3, and tens of
points off where a long tail leaves most pixels below the second threshold. NaN where no two of the points differ in
FPR (upstream NaN, or an error).

Compared with, largest difference over 13 distributions (uniform, gaussian, exp(40x), x**6, 8 bit, saturated, around
-1e5, one outlier of 1e4, ...) x 3 seeds, 20 maps of 128 x 128, half of them with 1 to 5 regions:

- ADEval 1.1.0, ``EvalAccumulator`` (CPU): AUROC and AP 1e-16, AUPRO 5e-10. A smaller form of it, in an environment
  of its own: ``pip install "numpy<2" adeval==1.1.0 opencv-python-headless pytest hypothesis``, then
  ``PYTHONPATH=. python -m pytest tests/metrics/test_published.py -k adeval``.
- ADer's ``Evaluator.run``, for F1, recall and IoU: 0 with NumPy 1.26. With NumPy 2.3 up to 1e-6 for scores without
  grid, 7e-4 around -1e5, 2e-3 for 8 bit and 3e-2 for multiples of 1/20: scores that lie on thresholds.
- ADer's ``Evaluator.run`` without ADEval, for ``metric=invad`` (NumPy 1.26, scikit-image 0.26, 12 maps of 48 x 48): all
  metrics, those of images included, 3e-16.
- CUDA's counting, emulated in NumPy, not run: AUROC 7e-5, AP 3e-4, AUPRO 8e-5 where s is at most 2e-4
  (1.1e-4, 7e-4 and 2.5e-4 around -1e5), 0.03, 0.09 and 0.04 for saturated maps; 0.09 in AP for the highest edge.

Letters: N pixels, M defective ones, E edges, S = 51 edges of the strips, T thresholds, C cells, L edges in a cell.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float32]
Span = tuple[np.float32, np.float32]  # smallest and largest score of the category

STRIPS = 50
AUPRO_LIMIT = 0.3
STEPS = 100  # of InvAD's AUPRO
EPS = 1e-8
# As ADer writes them, so that the last digits agree: 0, 0.05, ... 1 and 0.2, 0.3, ... 0.8.
MAX_THRESHOLDS: Scores = np.arange(0.0, 1.0 + 1e-3, 0.05).astype(np.float32)
RANGE_THRESHOLDS: Scores = np.arange(0.2, 0.8 + 1e-3, 0.1).astype(np.float32)

CHUNK = 1 << 16  # pixels at a time: what is made of them stays in the processor's cache
CELLS = 1024


class Counts(NamedTuple):
    """Predicted at each threshold: ``tp_T`` defective pixels, ``fp_T`` normal pixels, ``weight_T`` the sum of 1 /
    (area of the region) over the defective ones. ``positives``, ``negatives``, ``regions``: the same over all
    pixels."""

    tp_T: Array
    fp_T: Array
    weight_T: Array
    positives: float
    negatives: float
    regions: float

    def at(self, which: slice) -> Counts:
        """The counts at some of the thresholds."""
        return self._replace(tp_T=self.tp_T[which], fp_T=self.fp_T[which], weight_T=self.weight_T[which])


class PublishedCounts(NamedTuple):
    """Counts of one category at all thresholds that the published tables use.

    ``strips``: at the edges of the strips; ``grid``: at `MAX_THRESHOLDS`; ``range``: at `RANGE_THRESHOLDS`;
    ``steps``: at `step_edges`.
    """

    strips: Counts
    grid: Counts
    range: Counts
    steps: Counts


def count_pixels(score_N: Scores, defective_N: npt.NDArray[np.bool_], weight_N: Array) -> PublishedCounts | None:
    """Counts the pixels of one category at all thresholds.

    None, as all metrics are undefined: if there is no defective or no normal pixel; if all scores are equal (ADEval
    refuses them: no strips, no normalization); and if the smallest or largest score, or their difference in float32,
    is not finite.

    Args:
        score_N: float32 scores of all pixels, any range and order, higher is more anomalous.
        defective_N: bool, True where defective.
        weight_N: float64, 1 / (area of its region, pixels) for defective pixels; ignored elsewhere.
    """
    assert score_N.dtype == np.float32, score_N.dtype
    if not 0 < np.count_nonzero(defective_N) < len(score_N):
        return None
    span = (score_N.min(), score_N.max())
    with np.errstate(over="ignore", invalid="ignore"):  # a span of infinities, or an infinite one, is no error here
        width = span[1] - span[0]
    if not (np.isfinite(width) and width > 0):
        return None
    grid, few = (first_above(each, span) for each in (MAX_THRESHOLDS, RANGE_THRESHOLDS))
    edges = (strip_edges(span), grid, few, step_edges(span))
    every = count_from(np.concatenate(edges), span, score_N, defective_N, weight_N)
    ends = np.cumsum([len(each) for each in edges])
    return PublishedCounts(*(every.at(slice(end - len(each), end)) for end, each in zip(ends, edges, strict=True)))


def strip_edges(span: Span) -> Scores:
    """The strips' 51 edges, ascending, rounded to float32 at each step as in ADEval's accumulator for NumPy."""
    smallest, largest = span
    share_S: Scores = np.linspace(0.0, 1.0, STRIPS + 1, dtype=np.float32)
    edge_S: Scores = share_S * (largest - smallest) + smallest
    return edge_S


def step_edges(span: Span) -> Scores:
    """The smallest float32 score above each threshold of InvAD's AUPRO, ascending.

    Types as upstream with NumPy 1, which decide whether there are 100 thresholds or 101: ends in float32, the step in
    float64; the thresholds were rounded to float32 when float32 maps were compared with them.
    """
    smallest, largest = span
    threshold_T = np.arange(smallest, largest, np.float64(largest - smallest) / STEPS)
    edge_T: Scores = np.nextafter(threshold_T.astype(np.float32), np.float32(np.inf))
    return edge_T


def first_above(threshold_T: Scores, span: Span) -> Scores:
    """The smallest float32 score in ``span`` whose normalized value exceeds each threshold; inf if there is none.

    Normalizing never changes the order, its roundings included. So ``score >= first`` is the same as ``normalized
    > threshold``, bit for bit, and no map needs normalizing: one binning of the scores serves all metrics.
    Found by bisection over the float32 numbers in ``span``, in 32 steps at most. Thresholds must be >= 0.
    """
    smallest, largest = span
    width = largest - smallest
    low, high = _key(smallest), _key(largest)
    low_T, high_T = (np.full(len(threshold_T), key, dtype=np.int64) for key in (low, high + 1))
    while (high_T - low_T > 1).any():
        middle_T = (low_T + high_T) // 2
        above_T = (_value(middle_T) - smallest) / width > threshold_T
        high_T, low_T = np.where(above_T, middle_T, high_T), np.where(above_T, low_T, middle_T)
    return np.where(high_T > high, np.float32(np.inf), _value(np.minimum(high_T, high)))


def _key(score: np.float32) -> int:
    """Place of a float32 number in the order of all of them; 0 for zero, whichever its sign."""
    bits = int(np.abs(score).view(np.int32))
    return -bits if score < 0 else bits


def _value(key_T: npt.NDArray[np.int64]) -> Scores:
    """Inverse of `_key`."""
    magnitude_T = np.abs(key_T).astype(np.int32).view(np.float32)
    return np.where(key_T < 0, -magnitude_T, magnitude_T)


def count_from(
    edge_T: Scores, span: Span, score_N: Scores, defective_N: npt.NDArray[np.bool_], weight_N: Array
) -> Counts:
    """Counts the pixels with score >= edge, for every edge; exact, in one pass, `CHUNK` pixels at a time.

    Args:
        edge_T: float32, in any order, none below the smallest score, inf allowed.
        span: smallest and largest score.
        score_N, defective_N, weight_N: as for `count_pixels`.
    """
    edge_E = np.unique(edge_T)
    binning = Binning(edge_E, span)
    pixels_E, defective_E = (np.zeros(len(edge_E) + 1, dtype=np.int64) for _ in range(2))
    weight_E = np.zeros(len(edge_E) + 1)
    for start in range(0, len(score_N), CHUNK):
        chunk = slice(start, start + CHUNK)
        rank_N = binning.rank(score_N[chunk])
        pixels_E += np.bincount(rank_N, minlength=len(pixels_E))
        at_M = np.flatnonzero(defective_N[chunk])
        if len(at_M):
            defective_E += np.bincount(rank_N[at_M], minlength=len(pixels_E))
            weight_E += np.bincount(rank_N[at_M], weights=weight_N[chunk][at_M], minlength=len(pixels_E))
    place_T = np.searchsorted(edge_E, edge_T) + 1
    tails = [np.cumsum(each[::-1])[::-1].astype(np.float64) for each in (defective_E, pixels_E - defective_E, weight_E)]
    tp_T, fp_T, weight_T = (tail[place_T] for tail in tails)
    return Counts(tp_T, fp_T, weight_T, *(float(tail[0]) for tail in tails))


class Binning:
    """How many of some edges are at or below a score: exactly ``searchsorted(edges, score, "right")``, but faster.

    Scores are cut into `CELLS` cells of about equal width by a subtraction and a multiplication in float32. Both
    keep the order, so all edges of lower cells are below a score, all of higher cells above it, and only those of
    its own cell need comparing. The edges lie apart, so that a cell has two at most (a strip's and a threshold's);
    more would be right too, but slower. No branch depends on a score: skewed scores take no longer.

    Args:
        edge_E: float32, ascending and distinct, none below the smallest score.
        span: smallest and largest of all scores to come; distinct and at a finite distance.
    """

    def __init__(self, edge_E: Scores, span: Span) -> None:
        self._smallest, largest = span
        with np.errstate(over="ignore"):
            self._scale = min(np.float32(CELLS) / (largest - self._smallest), np.finfo(np.float32).max)
        edge_E = edge_E[edge_E <= largest]
        cell_E = self._cell(edge_E)
        cells = int(self._cell(np.array([largest]))[0]) + 1
        below_C = np.searchsorted(cell_E, np.arange(cells), side="left")
        layer_E = np.arange(len(edge_E)) - below_C[cell_E]
        self._below_C = below_C.astype(np.int16)
        self._inside_LC = np.full((layer_E.max(initial=0) + 1, cells), np.inf, dtype=np.float32)
        self._inside_LC[layer_E, cell_E] = edge_E

    def _cell(self, score_N: Scores) -> npt.NDArray[np.intp]:
        offset_N = score_N - self._smallest
        offset_N *= self._scale
        return offset_N.astype(np.intp)

    def rank(self, score_N: Scores) -> npt.NDArray[np.int16]:
        """The number of edges <= score, per score."""
        cell_N = self._cell(score_N)
        rank_N: npt.NDArray[np.int16] = self._below_C[cell_N]
        for inside_C in self._inside_LC:
            rank_N += score_N >= inside_C[cell_N]
        return rank_N


def auroc(counts: PublishedCounts) -> float:
    """Area under TPR(FPR) between the strips' edges, trapezoidal."""
    strips = counts.strips
    return _area(strips.fp_T / strips.negatives, strips.tp_T / strips.positives)


def average_precision(counts: PublishedCounts) -> float:
    """Area under precision(recall) between the strips' edges, trapezoidal; precision 1 where nothing is predicted."""
    strips = counts.strips
    predicted_T = strips.tp_T + strips.fp_T
    precision_T = np.where(predicted_T > 0, strips.tp_T / np.maximum(predicted_T, 1.0), 1.0)
    return _area(strips.tp_T / strips.positives, precision_T)


def aupro(counts: PublishedCounts) -> float:
    """Area under PRO(FPR) up to FPR 0.3, divided by 0.3; NaN if the curve starts beyond."""
    strips = counts.strips
    fpr_T, pro_T = strips.fp_T / strips.negatives, strips.weight_T / strips.regions
    inside_T = fpr_T <= AUPRO_LIMIT
    if not inside_T[-1]:
        return math.nan
    low, high = int(np.argmax(inside_T)), int(np.argmax(inside_T)) - 1  # FPR falls with the edge, from 1
    share = (AUPRO_LIMIT - fpr_T[low]) / (fpr_T[high] - fpr_T[low])
    pro = pro_T[low] + share * (pro_T[high] - pro_T[low])
    return _area(np.append(AUPRO_LIMIT, fpr_T[low:]), np.append(pro, pro_T[low:])) / AUPRO_LIMIT


def aupro_of_steps(counts: PublishedCounts) -> float:
    """Area under PRO over the FPRs below 0.3, which are rescaled to [0, 1]; NaN if they are all equal."""
    steps = counts.steps
    fpr_T = steps.fp_T / steps.negatives
    inside_T = fpr_T < AUPRO_LIMIT
    fpr_T, pro_T = fpr_T[inside_T], (steps.weight_T / steps.regions)[inside_T]
    if len(fpr_T) == 0 or fpr_T[0] == fpr_T[-1]:
        return math.nan
    return _area((fpr_T - fpr_T[-1]) / (fpr_T[0] - fpr_T[-1]), pro_T)


def _area(x_T: Array, y_T: Array) -> float:
    """Trapezoidal area under y(x), x in descending order (``numpy.trapz`` left NumPy in version 2.4)."""
    return float(np.dot(x_T[:-1] - x_T[1:], (y_T[:-1] + y_T[1:]) / 2))


def f1_max(counts: PublishedCounts) -> float:
    """Largest F1 at the 21 thresholds."""
    return float(_f1(counts.grid).max())


def iou_max(counts: PublishedCounts) -> float:
    """Largest IoU at the 21 thresholds."""
    return float(_iou(counts.grid).max())


def range_f1(counts: PublishedCounts) -> float:
    """Mean F1 at 0.2, 0.3, ... 0.8 of the score range."""
    return float(_f1(counts.range).mean())


def range_recall(counts: PublishedCounts) -> float:
    """Mean recall ("Acc") at 0.2, 0.3, ... 0.8 of the score range."""
    return float(_recall(counts.range).mean())


def range_iou(counts: PublishedCounts) -> float:
    """Mean IoU at 0.2, 0.3, ... 0.8 of the score range."""
    return float(_iou(counts.range).mean())


def _f1(counts: Counts) -> Array:
    """F1 at each threshold. ADer's 1e-8 stands in all denominators: it shows where few pixels are defective."""
    precision_T = counts.tp_T / (counts.tp_T + counts.fp_T + EPS)
    recall_T = _recall(counts)
    return 2 * precision_T * recall_T / (precision_T + recall_T + EPS)


def _recall(counts: Counts) -> Array:
    return counts.tp_T / (counts.positives + EPS)


def _iou(counts: Counts) -> Array:
    return counts.tp_T / (counts.positives + counts.fp_T + EPS)
