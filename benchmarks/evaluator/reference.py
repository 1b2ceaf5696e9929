"""The exact values that errors are measured from, and how far other code is from them."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from scipy.ndimage import label

from benchmarks.evaluator.competitors import NotInstalledError, Values, ader, load
from benchmarks.evaluator.data import Array, Data, Images


def reference(images: Images, batch: int) -> dict[str, Any]:
    """Exact values, category by category, and how far other code is from them on the first."""
    values: Values = {}
    check: dict[str, float] | str = {}
    checksum = 0
    for number, name in enumerate(images.names):
        data = Data.make(images, number, number + 1)  # one at a time: all of them need not fit into memory
        values |= ader("exact")(data, batch)().values
        if number == 0:
            checksum, check = zlib.crc32(data.map_NHW), difference(data, values[name])
    return {"values": values, "check": check, "checksum": checksum}


def difference(data: Data, values: dict[str, float]) -> dict[str, float] | str:
    """Distance of values to those of scikit-learn and of ``plain_aupro``, by slug; or why it is not known."""
    try:
        metrics = load("sklearn.metrics", "scikit-learn")
    except NotInstalledError as error:
        return str(error)
    truth, score = data.mask_NHW.ravel(), data.map_NHW.ravel()
    other = {
        "pixel_auroc": metrics.roc_auc_score(truth, score),
        "pixel_ap": metrics.average_precision_score(truth, score),
        "pixel_aupro": plain_aupro(data.map_NHW, data.mask_NHW),
    }
    return {slug: abs(float(value) - values[slug]) for slug, value in other.items()}


def plain_aupro(map_NHW: Array, mask_NHW: Array, limit: float = 0.3) -> float:
    """AUPRO from its definition, every distinct score a threshold; shares no code with the evaluator."""
    weight_NHW = np.zeros(mask_NHW.shape)
    regions = 0
    for weight_HW, mask_HW in zip(weight_NHW, mask_NHW, strict=True):
        label_HW, count = label(mask_HW, structure=np.ones((3, 3)))
        for number in range(1, count + 1):
            inside_HW = label_HW == number
            weight_HW[inside_HW] = 1 / inside_HW.sum()
        regions += count
    score = map_NHW.ravel()
    order = np.argsort(-score)
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # of each run of equal scores
    normal = (mask_NHW == 0).ravel()
    fpr = np.append(0.0, np.cumsum(normal[order])[last] / normal.sum())
    pro = np.append(0.0, np.cumsum(weight_NHW.ravel()[order])[last] / regions)
    below = fpr < limit
    x, y = np.append(fpr[below], limit), np.append(pro[below], np.interp(limit, fpr, pro))
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / limit)
