"""Metrics and resizing computed the long way, straight from their definitions, to test the fast ones against.

Written independently of ``ader.metrics``: loops over all distinct thresholds, regions by flood fill. For
small inputs. Letters: N images, H rows, W columns.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def flood_fill_regions(mask_HW):
    """8-connected regions of one mask, each as a list of (row, column)."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask_HW)}
    regions = []
    while left:
        front, region = [left.pop()], []
        while front:
            row, column = front.pop()
            region.append((row, column))
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            front.extend(near)
        regions.append(region)
    return regions


def brute_force_aupro(map_NHW, mask_NHW, limit=0.3):
    """Per-region overlap averaged over FPR in [0, limit]; every distinct score is a threshold."""
    map_NHW, mask_NHW = np.asarray(map_NHW, dtype=np.float64), np.asarray(mask_NHW) != 0
    regions = [
        np.array([score_HW[at] for at in region])
        for score_HW, mask_HW in zip(map_NHW, mask_NHW, strict=True)
        for region in flood_fill_regions(mask_HW)
    ]
    normal = map_NHW[~mask_NHW]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(map_NHW)[::-1]:
        fpr = np.count_nonzero(normal >= threshold) / normal.size
        curve.append((fpr, np.mean([np.count_nonzero(region >= threshold) / region.size for region in regions])))
        if fpr >= limit:
            break  # what follows lies beyond
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x1 > limit and x1 > x0:
            y1 = y0 + (y1 - y0) * max(limit - x0, 0.0) / (x1 - x0)
            x1 = max(limit, x0)
        area += (x1 - x0) * (y0 + y1) / 2
        if x1 >= limit:
            break
    return area / limit


def confusion(score, truth, threshold, strict=False):
    """TP, FP, FN of ``score >= threshold`` (``>`` if strict)."""
    hit = score > threshold if strict else score >= threshold
    return tuple(np.int64(np.count_nonzero(each)) for each in (hit & truth, hit & ~truth, ~hit & truth))


def f1(tp, fp, fn):
    return 2 * tp / (2 * tp + fp + fn)


def iou(tp, fp, fn):
    return tp / (tp + fp + fn)


def recall(tp, fp, fn):
    return tp / (tp + fn)


def brute_force_max(measure, score, truth):
    """Largest value of ``measure`` (`f1` or `iou`) over all distinct thresholds."""
    score, truth = np.ravel(score).astype(np.float64), np.ravel(truth) != 0
    return max(measure(*confusion(score, truth, threshold)) for threshold in np.unique(score))


def brute_force_range(measure, score, truth):
    """Mean of ``measure`` at 0.2, 0.3, ... 0.8 of the score range, prediction = score > threshold."""
    score, truth = np.ravel(score).astype(np.float64), np.ravel(truth) != 0
    low, high = score.min(), score.max()
    thresholds = [low + tenth / 10 * (high - low) for tenth in range(2, 9)]
    return float(np.mean([measure(*confusion(score, truth, each, strict=True)) for each in thresholds]))


def brute_force_auroc(score, truth):
    """Share of (defective, normal) pairs in the right order, ties as half."""
    score, truth = np.ravel(score).astype(np.float64), np.ravel(truth) != 0
    normal = np.sort(score[~truth])
    below = np.searchsorted(normal, score[truth], "left") + np.searchsorted(normal, score[truth], "right")
    return float(below.mean() / 2 / len(normal))


def brute_force_ap(score, truth):
    """Step-wise average precision, one step per distinct score in descending order."""
    score, truth = np.ravel(score).astype(np.float64), np.ravel(truth) != 0
    area, seen = 0.0, 0
    for threshold in np.unique(score)[::-1]:
        tp, fp, _ = confusion(score, truth, threshold)
        area += (tp - seen) / truth.sum() * tp / (tp + fp)
        seen = tp
    return area


def pixel_oracle(map_NHW, mask_NHW):
    """All pixel metrics of one category: slug -> value. Scores as float32, as in the evaluator."""
    map_NHW = np.asarray(map_NHW, dtype=np.float32)
    values = {
        "pixel_auroc": brute_force_auroc(map_NHW, mask_NHW),
        "pixel_ap": brute_force_ap(map_NHW, mask_NHW),
        "pixel_f1max": brute_force_max(f1, map_NHW, mask_NHW),
        "pixel_aupro": brute_force_aupro(map_NHW, mask_NHW),
        "pixel_ioumax": brute_force_max(iou, map_NHW, mask_NHW),
    }
    if np.isfinite(map_NHW).all():
        values["pixel_f1_02_08"] = brute_force_range(f1, map_NHW, mask_NHW)
        values["pixel_acc_02_08"] = brute_force_range(recall, map_NHW, mask_NHW)
        values["pixel_iou_02_08"] = brute_force_range(iou, map_NHW, mask_NHW)
    return values


def bilinear(values, height, width):
    """Half-pixel centers, no antialiasing, edges repeated: straight from the definition."""

    def weights(size, wanted):
        center = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
        low = np.floor(center).astype(int)
        return low, np.minimum(low + 1, size - 1), center - low

    values = np.asarray(values, np.float64)
    top, bottom, down = weights(values.shape[0], height)
    left, right, across = weights(values.shape[1], width)
    rows = values[top] * (1 - down[:, None]) + values[bottom] * down[:, None]
    return rows[:, left] * (1 - across) + rows[:, right] * across
