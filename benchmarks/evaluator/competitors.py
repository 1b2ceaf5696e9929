"""What is compared: this project's evaluator, ADEval, what ADer does without it, torchmetrics, and plain copies."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.evaluator.data import Array, Data

Values = dict[str, dict[str, float]]  # category -> slug -> fraction

SLUGS = ("pixel_auroc", "pixel_ap", "pixel_aupro")


@dataclass
class Outcome:
    """What a competitor computed."""

    values: Values = field(default_factory=dict)
    bounds: Values = field(default_factory=dict)
    update_seconds: float | None = None  # of the whole, where updates and results are two steps


Run = Callable[[], Outcome]  # what is timed
Prepare = Callable[[Data, int], Run]  # imports and allocates, untimed; from the data and a number of images per update


@dataclass(frozen=True)
class Competitor:
    """One row of the table."""

    title: str
    prepare: Prepare
    cuda: bool = False
    environment: dict[str, str] = field(default_factory=dict)


class NotInstalledError(Exception):
    """A competitor's package is missing; the message is how to get it."""


def load(module: str, packages: str) -> Any:
    """Imports a competitor.

    Raises:
        NotInstalledError: there is none.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NotInstalledError(f"not installed: pip install {packages}") from error


def ader(metric: str = "histogram", cuda: bool = False) -> Prepare:
    """This project's evaluator: every metric and every bound."""

    def prepare(data: Data, batch: int) -> Run:
        torch = importlib.import_module("torch")
        evaluator_class = importlib.import_module("ader.metrics").Evaluator
        map_NHW, mask_NHW = (torch.as_tensor(each) for each in (data.map_NHW, data.mask_NHW))  # no copies

        def run() -> Outcome:
            began = time.perf_counter()
            evaluator = evaluator_class(data.names, device="cuda" if cuda else "cpu", metric=metric)
            for part in data.batches(batch):
                images = (data.category_N[part], data.score_N[part], data.label_N[part])
                evaluator.update(*images, map_NHW[part], mask_NHW[part])
            updated = time.perf_counter() - began
            frames = (evaluator.compute(), evaluator.bounds())
            values, bounds = (frame.loc[data.names].T.to_dict() for frame in frames)
            return Outcome(values, bounds, updated)

        return run

    return prepare


def adeval(strips: int, cuda: bool = False) -> Prepare:
    """ADEval's accumulator, one per category as in ADer, with the true range of scores known in advance."""

    def prepare(data: Data, batch: int) -> Run:
        package = load("adeval", 'adeval==1.1.0 "numpy<2.4"')
        accumulator_class = package.EvalAccumulatorCuda if cuda else package.EvalAccumulator

        def run() -> Outcome:
            outcome = Outcome()
            for number, (name, part) in enumerate(data.parts()):
                score_N = data.score_N[part]
                image_range = (float(score_N.min()) - 1e-7, float(score_N.max()) + 1e-7)
                found = accumulator_class(*image_range, data.low_C[number], data.high_C[number], nstrips=strips)
                found.add_anomap_batch(data.map_NHW[part], data.mask_NHW[part])
                found.add_image(score_N, data.label_N[part])
                with np.errstate(all="ignore"):  # it also divides by the number of samples, of which there are none
                    summary = found.summary()
                keys = zip(SLUGS, ("p_auroc", "p_aupr", "p_aupro"), strict=True)
                outcome.values[name] = {slug: float(summary[key]) for slug, key in keys}
            return outcome

        return run

    return prepare


def sklearn(thresholds: int) -> Prepare:
    """ADer without ADEval: scikit-learn, 21 thresholds for F1 and IoU, scikit-image region by region for AUPRO."""

    def prepare(data: Data, batch: int) -> Run:
        metrics = load("sklearn.metrics", "scikit-learn")
        measure = load("skimage.measure", "scikit-image")

        def run() -> Outcome:
            outcome = Outcome()
            for name, part in data.parts():
                map_NHW, mask_NHW = data.map_NHW[part], data.mask_NHW[part]
                score, truth = map_NHW.ravel(), mask_NHW.ravel()
                outcome.values[name] = {
                    "pixel_auroc": float(metrics.roc_auc_score(truth, score)),
                    "pixel_ap": float(metrics.average_precision_score(truth, score)),
                    "pixel_aupro": slow_aupro(map_NHW, mask_NHW, thresholds, measure),
                    **grid_maxima(map_NHW, mask_NHW != 0),
                }
            return outcome

        return run

    return prepare


def grid_maxima(map_NHW: Array, mask_NHW: Array) -> dict[str, float]:
    """Largest F1 and IoU over 21 thresholds of the min-max-normalized maps (a favor: ADer sweeps once for each)."""
    low, high = map_NHW.min(), map_NHW.max()
    normed_NHW = (map_NHW - low) / (high - low)
    f1, iou = 0.0, 0.0
    for threshold in np.arange(21) / 20:
        called_NHW = normed_NHW > threshold
        hits, called, true = (int(each.sum()) for each in (called_NHW & mask_NHW, called_NHW, mask_NHW))
        f1 = max(f1, 2 * hits / (called + true))
        iou = max(iou, hits / (called + true - hits))
    return {"pixel_f1max_21": f1, "pixel_ioumax_21": iou}


def slow_aupro(map_NHW: Array, mask_NHW: Array, thresholds: int, measure: Any) -> float:
    """AUPRO as ADer's slow path takes it: equal steps of score, regions labeled again at every step, FPR below 0.3
    stretched to [0, 1]."""
    low, high = float(map_NHW.min()), float(map_NHW.max())
    normal_NHW = mask_NHW == 0
    points = []
    for step in range(thresholds):
        called_NHW = map_NHW > low + step * (high - low) / thresholds
        overlap = []
        for called_HW, mask_HW in zip(called_NHW, mask_NHW, strict=True):
            for region in measure.regionprops(measure.label(mask_HW)):
                overlap.append(called_HW[region.coords[:, 0], region.coords[:, 1]].sum() / region.area)
        points.append(((called_NHW & normal_NHW).sum() / normal_NHW.sum(), np.mean(overlap)))
    fpr, pro = np.array([point for point in points if point[0] < 0.3]).T[:, ::-1]
    if fpr[-1] == fpr[0]:
        return math.nan
    fpr = (fpr - fpr[0]) / (fpr[-1] - fpr[0])
    return float(np.sum(np.diff(fpr) * (pro[1:] + pro[:-1]) / 2))


def torchmetrics(thresholds: int | None) -> Prepare:
    """torchmetrics' binary AUROC and AP with shared counts. It takes scores outside [0, 1] for logits, batch by batch,
    so maps are stretched to [0, 1] by the known range first."""

    def prepare(data: Data, batch: int) -> Run:
        package, classification = (
            load(name, "torchmetrics") for name in ("torchmetrics", "torchmetrics.classification")
        )
        torch = importlib.import_module("torch")
        settings = {"thresholds": thresholds, "validate_args": False}

        def run() -> Outcome:
            outcome = Outcome()
            for number, (name, part) in enumerate(data.parts()):
                found = package.MetricCollection(
                    {
                        "pixel_auroc": classification.BinaryAUROC(**settings),
                        "pixel_ap": classification.BinaryAveragePrecision(**settings),
                    },
                    compute_groups=[["pixel_auroc", "pixel_ap"]],
                )
                low, high = data.low_C[number], data.high_C[number]
                for images in data.batches(batch, part):
                    map_BHW, mask_BHW = (torch.from_numpy(each[images]) for each in (data.map_NHW, data.mask_NHW))
                    found.update(((map_BHW - low) / (high - low)).flatten(), mask_BHW.flatten())
                outcome.values[name] = {slug: float(value) for slug, value in found.compute().items()}
            return outcome

        return run

    return prepare


def copy_fresh(data: Data, batch: int) -> Run:
    """Copies maps and masks into fresh memory."""

    def run() -> Outcome:
        if isinstance(data.map_NHW, np.ndarray):
            _ = (np.copy(data.map_NHW), np.copy(data.mask_NHW))
        else:
            _ = (data.map_NHW.clone(), data.mask_NHW.clone())
        return Outcome()

    return run


def copy_existing(data: Data, batch: int) -> Run:
    """Copies maps and masks into memory that is there and has been written to."""
    on_cpu = isinstance(data.map_NHW, np.ndarray)
    sources = (data.map_NHW, data.mask_NHW)
    targets = tuple(np.copy(each) if on_cpu else each.clone() for each in sources)

    def run() -> Outcome:
        for target, source in zip(targets, sources, strict=True):
            target[:] = source
        return Outcome()

    return run


COMPETITORS = {
    "ader": Competitor("ader, all metrics and bounds", ader()),
    "ader-torch": Competitor("ader, without compiled kernels", ader(), environment={"ADER_KERNELS": "torch"}),
    "ader-exact": Competitor("ader, exact", ader("exact")),
    "adeval-50": Competitor("ADEval, 50 strips", adeval(50)),
    "adeval-1000": Competitor("ADEval, 1000 strips", adeval(1000)),
    "sklearn-100": Competitor("scikit-learn + scikit-image, 100 thresholds", sklearn(100)),
    "sklearn-200": Competitor("scikit-learn + scikit-image, 200 thresholds", sklearn(200)),
    "torchmetrics-exact": Competitor("torchmetrics, exact (no AUPRO)", torchmetrics(None)),
    "torchmetrics-1000": Competitor("torchmetrics, 1000 thresholds (no AUPRO)", torchmetrics(1000)),
    "copy-fresh": Competitor("copy into fresh memory", copy_fresh),
    "copy-existing": Competitor("copy into memory already there", copy_existing),
    "ader-cuda": Competitor("ader on CUDA, all metrics and bounds", ader(cuda=True), cuda=True),
    "adeval-50-cuda": Competitor("ADEval on CUDA, 50 strips", adeval(50, cuda=True), cuda=True),
    "adeval-1000-cuda": Competitor("ADEval on CUDA, 1000 strips", adeval(1000, cuda=True), cuda=True),
    "copy-fresh-cuda": Competitor("device copy into fresh memory", copy_fresh, cuda=True),
    "copy-existing-cuda": Competitor("device copy into memory already there", copy_existing, cuda=True),
}
