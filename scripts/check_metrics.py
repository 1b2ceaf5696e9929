"""Recomputes a run's metrics from its saved maps with scikit-learn and brute force, and compares.

    ader dataset=... method=... save_maps=true
    python scripts/check_metrics.py results/<dataset>/<setting>/<method>/<run> [--root DIR]

Reads maps/*.npy and the dataset's masks (with Pillow, not with the project's reader), computes every metric again
without the project's evaluator, and prints the largest difference to metrics.csv per metric. Status 1 if one exceeds
--tolerance (a fraction, default 1e-4).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import label as label_regions
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from ader.data import Sample, load_index
from ader.report.renderers import terminal
from ader.report.tables import Column, Row, Table
from ader.results.trained import open_run

Array = np.ndarray[Any, Any]


def main() -> int:
    """Compares one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", type=Path, help="the dataset's folder, if it is not where the run found it")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    record = open_run(options.run).record
    dataset, metric = record.config["dataset"], record.config["metric"]
    if record.metric == "ader" or (metric["size"], metric["mask_interpolation"]) != ("input", "bilinear"):
        parser.error("only metric=histogram and exact are computed again, with masks resized to the maps (the default)")
    if record.masks is not None and record.masks.rule != "any":
        parser.error("only masks of which every level above 0 is defective are read again (metric.mask_rule=any)")
    index = load_index(dataset["name"], options.root or dataset["root"], dataset["categories"])
    table = pd.read_csv(options.run / "metrics.csv", index_col="category")
    worst: dict[str, tuple[float, str]] = {}
    for category in index.categories:
        samples = [s for s in index if s.category == category and s.split == "test"]
        for slug, value in recompute(options.run, index.root, samples).items():
            difference = abs(value - float(table.loc[category, slug]))  # type: ignore[arg-type]
            worst[slug] = max(worst.get(slug, (0.0, "")), (difference, category))
    columns = Column("metric"), Column("largest difference", kind="power", digits=2), Column("category")
    print(terminal(Table(columns, tuple(Row.of(slug, *found) for slug, found in worst.items())), gap=3))
    largest = max(difference for difference, _ in worst.values())
    print(f"largest of all: {largest:.2e}, tolerance {options.tolerance:g}")
    return int(not largest <= options.tolerance)


def recompute(run: Path, root: Path, samples: list[Sample]) -> dict[str, float]:
    """All metrics of one category, from its files."""
    maps = np.stack([np.load(map_file(run / "maps", s)) for s in samples])
    masks = np.stack([read_mask([root / name for name in s.masks], maps.shape[1]) for s in samples])
    image = {f"image_{k}": v for k, v in ranking(np.array([s.label for s in samples]), maps.max(axis=(1, 2))).items()}
    scores, truth = maps.ravel(), masks.ravel()
    pixel = {f"pixel_{k}": v for k, v in ranking(truth, scores).items()}
    pixel["pixel_aupro"] = aupro(maps, masks)
    pixel["pixel_ioumax"] = iou_max(truth, scores)
    return image | pixel | fixed_thresholds(truth, scores)


def map_file(folder: Path, sample: Sample) -> Path:
    """By its short name, or by the image's own path where that is shared."""
    own = folder / Path(sample.image).with_suffix(".npy")
    return own if own.exists() else folder / sample.category / sample.defect / f"{Path(sample.image).stem}.npy"


def read_mask(paths: list[Path], size: int) -> Array:
    """ADer's geometry: nonzero is 255, bilinear to (size, size), then above one half."""
    if not paths:
        return np.zeros((size, size), dtype=bool)
    raw = np.max([np.asarray(Image.open(path).convert("L")) > 0 for path in paths], axis=0)
    resized = Image.fromarray(raw.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float64) / 255 > 0.5


def ranking(truth: Array, scores: Array) -> dict[str, float]:
    """AUROC, AP and F1-max by scikit-learn."""
    precision, recall, _ = precision_recall_curve(truth, scores)
    with np.errstate(invalid="ignore"):
        f1 = 2 * precision * recall / (precision + recall)
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "ap": float(average_precision_score(truth, scores)),
        "f1max": float(np.nanmax(f1)),
    }


def iou_max(truth: Array, scores: Array) -> float:
    """Largest TP / (TP + FP + FN) over scikit-learn's ROC points."""
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    positives, negatives = truth.sum(), (~truth).sum()
    return float(np.max(tpr * positives / (positives + fpr * negatives)))


def aupro(maps: Array, masks: Array, limit: float = 0.3) -> float:
    """Region by region: share of each region at or above every threshold, against the share of normal pixels."""
    regions = []
    for each, mask in zip(maps, masks, strict=True):
        labeled, count = label_regions(mask, structure=np.ones((3, 3)))
        regions += [np.sort(each[labeled == number]) for number in range(1, count + 1)]
    normal = np.sort(maps[~masks])
    keep = normal[int((1 - limit) * len(normal)) - 2 :]  # thresholds below these have a larger FPR
    inside = np.concatenate(regions)
    thresholds = np.unique(np.concatenate([keep, inside[inside >= keep[0]]]))[::-1]
    fpr = np.concatenate([[0.0], share_at_least(normal, thresholds)])
    pro = np.concatenate([[0.0], np.mean([share_at_least(region, thresholds) for region in regions], axis=0)])
    end = np.interp(limit, fpr, pro)
    below = fpr < limit
    x, y = np.append(fpr[below], limit), np.append(pro[below], end)
    return float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2) / limit)


def share_at_least(ascending: Array, thresholds: Array) -> Array:
    """Share of sorted values at or above each threshold."""
    shares: Array = (len(ascending) - np.searchsorted(ascending, thresholds, side="left")) / len(ascending)
    return shares


def fixed_thresholds(truth: Array, scores: Array) -> dict[str, float]:
    """Means over thresholds 0.2 to 0.8 of the score range."""
    low, high = float(scores.min()), float(scores.max())
    rows = []
    for tenths in range(2, 9):
        called = scores > low + tenths / 10 * (high - low)
        hit, either = float((called & truth).sum()), float((called | truth).sum())
        rows.append((2 * hit / float(called.sum() + truth.sum()), hit / float(truth.sum()), hit / either))
    f1, recall, iou = np.mean(rows, axis=0)
    return {"pixel_f1_02_08": f1, "pixel_acc_02_08": recall, "pixel_iou_02_08": iou}


if __name__ == "__main__":
    sys.exit(main())
