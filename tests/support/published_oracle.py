"""The published ADer tables' pixel metrics the slow and literal way, to test ``ader.metrics.published`` against.

Written independently of it: one histogram per region weight, one comparison of the whole normalized map per
threshold, loops over the points of a curve. Letters: N images, H rows, W columns.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from ader.metrics.results import Row, add_published_metrics
from tests.support.oracles import flood_fill_regions

EPS = 1e-8


def strip_edges(low, high):
    """51 edges, each of share * (high - low) + low rounded to float32 at every step."""
    return [np.float32(np.float32(strip / 50) * np.float32(high - low)) + low for strip in range(51)]


def region_weights(mask_NHW):
    """1 / area of its region for defective pixels, 1 elsewhere."""
    weight_NHW = np.ones(mask_NHW.shape)
    for weight_HW, mask_HW in zip(weight_NHW, mask_NHW, strict=True):
        for region in flood_fill_regions(mask_HW):
            for at in region:
                weight_HW[at] = 1 / len(region)
    return weight_NHW


def strip_counts(score_NHW, mask_NHW, weight_NHW):
    """Per strip, under- and overflow included: defective, normal and weighted defective pixels."""
    edges = np.array([-np.inf, *strip_edges(score_NHW.min(), score_NHW.max()), np.inf], dtype=np.float32)
    defective, normal, weighted = np.zeros(52), np.zeros(52), np.zeros(52)
    for weight in np.unique(weight_NHW):
        here = weight_NHW == weight
        inside = np.histogram(score_NHW[here & mask_NHW], edges)[0]
        defective += inside
        weighted += weight * inside
        normal += np.histogram(score_NHW[here & ~mask_NHW], edges)[0]
    return defective, normal, weighted


def at_or_above(counts):
    """Totals at and above each of the 51 edges, from the highest edge to the lowest."""
    return [counts[strip:].sum() for strip in range(51, 0, -1)]


def trapezoids(points):
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


def curve_metrics(score_NHW, mask_NHW, limit=0.3):
    defective, normal, weighted = strip_counts(score_NHW, mask_NHW, region_weights(mask_NHW))
    tps, fps, sums = at_or_above(defective), at_or_above(normal), at_or_above(weighted)
    roc = [(fp / normal.sum(), tp / defective.sum()) for tp, fp in zip(tps, fps, strict=True)]
    pr = [(tp / defective.sum(), tp / (tp + fp) if tp + fp else 1.0) for tp, fp in zip(tps, fps, strict=True)]
    pro = [(fp / normal.sum(), each / weighted.sum()) for each, fp in zip(sums, fps, strict=True)]
    inside = [point for point in pro if point[0] <= limit]
    aupro = np.nan
    if inside:
        (x0, y0), (x1, y1) = inside[-1], pro[len(inside)]
        aupro = trapezoids([*inside, (limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0))]) / limit
    return {"pixel_auroc": trapezoids(roc), "pixel_ap": trapezoids(pr), "pixel_aupro": aupro}


def threshold_metrics(score_NHW, mask_NHW):
    norm_NHW = (score_NHW - score_NHW.min()) / (score_NHW.max() - score_NHW.min())
    assert norm_NHW.dtype == np.float32

    def measures(threshold):
        hit_NHW = norm_NHW > np.float32(threshold)
        both, either = np.sum(hit_NHW & mask_NHW), np.sum(hit_NHW | mask_NHW)
        precision, recall = both / (hit_NHW.sum() + EPS), both / (mask_NHW.sum() + EPS)
        return 2 * precision * recall / (precision + recall + EPS), recall, both / (either + EPS)

    grid = np.array([measures(step / 20) for step in range(21)])
    few = np.array([measures(tenth / 10) for tenth in range(2, 9)])
    values = {"pixel_f1max": grid[:, 0].max(), "pixel_ioumax": grid[:, 2].max()}
    return values | dict(zip(("pixel_f1_02_08", "pixel_acc_02_08", "pixel_iou_02_08"), few.mean(0), strict=True))


def ader_oracle(score_NHW, mask_NHW):
    """All pixel metrics of one category: slug -> value. Float32 scores, bool masks."""
    return curve_metrics(score_NHW, mask_NHW) | threshold_metrics(score_NHW, mask_NHW)


def aupro_of_100_thresholds(score_NHW, mask_NHW, limit=0.3):
    """InvAD's: whole maps compared with each threshold, FPRs below the limit stretched to [0, 1]."""
    low, high = score_NHW.min(), score_NHW.max()
    regions = [
        (image, *np.transpose(region))
        for image, mask_HW in enumerate(mask_NHW)
        for region in flood_fill_regions(mask_HW)
    ]
    points = []
    for threshold in np.arange(low, high, np.float64(high - low) / 100):
        hit_NHW = score_NHW > np.float32(threshold)
        fpr = (hit_NHW & ~mask_NHW).sum() / (~mask_NHW).sum()
        if fpr < limit:
            points.append((fpr, np.mean([hit_NHW[region].mean() for region in regions])))
    rates = np.array([fpr for fpr, _ in points])
    if len(points) == 0 or rates.min() == rates.max():
        return np.nan
    return auc((rates - rates.min()) / (rates.max() - rates.min()), [pro for _, pro in points])


def invad_oracle(score_NHW, mask_NHW):
    """As ``ader_oracle``."""
    values = threshold_metrics(score_NHW, mask_NHW)
    values["pixel_auroc"] = roc_auc_score(mask_NHW.ravel(), score_NHW.ravel())
    values["pixel_ap"] = average_precision_score(mask_NHW.ravel(), score_NHW.ravel())
    return values | {"pixel_aupro": aupro_of_100_thresholds(score_NHW, mask_NHW)}


#: By the kind of evaluation.
ORACLES = {"ader": ader_oracle, "invad": invad_oracle}


def published_metrics(kind, score_N, defective_N, weight_N):
    """What the package has for one category's pixels: slug -> value."""
    row = Row()
    add_published_metrics(row, kind, score_N, defective_N, weight_N, mapped=1)
    return row.value
