"""Times the evaluator beside everything else that computes these metrics: same arrays, one run, plain numbers.

    python -m benchmarks.evaluator                                    # MVTec AD's size: 1,725 maps of 256x256
    python -m benchmarks.evaluator --scale 1 2 4 --json FILE --markdown
    python -m benchmarks.evaluator --images 60 --only ader adeval-1000 copy-fresh       # a trial

ADEval 1.1.0 breaks on NumPy 2.4 and newer (np.trapz), so competitors get an environment of their own:

    python3.11 -m venv .venv-bench
    .venv-bench/bin/pip install -e . "numpy<2.4" torch==2.12.1 torchvision==0.27.1 adeval==1.1.0 torchmetrics \\
        scikit-image scikit-learn
    .venv-bench/bin/python -m benchmarks.evaluator

What is missing there is reported as not installed. Each competitor runs in a process of its own, which makes the data
again from the seed (not timed), runs a small part twice (the difference of the two is the one-off time: JIT
compilation and the like), then takes the best of --repeats. Before every repetition the same arrays are copied, into
fresh memory and into memory already there; ratios to the copy are to the one in the same process, because a shared
machine's speed drifts. A competitor that would take longer than --limit seconds runs on as many whole categories as
fit, or on a part of one, and its time is extrapolated linearly and marked "~". Memory is the peak of the resident set
above what was there before (arrays excluded; ">" marks a subset); on CUDA, of the allocator.

Errors are the largest difference of pixel AUROC, AP and AUPRO to the exact values over the categories, on what ran;
exact is the evaluator with metric="exact", itself checked on one category with scikit-learn and another AUPRO. Exit
status 1: that check failed, or a certified bound did not hold.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label

from benchmarks.evaluator_stress import DISTRIBUTIONS, Images, resident

Array = npt.NDArray[Any]
Values = dict[str, dict[str, float]]  # category -> slug -> fraction

SLUGS = ("pixel_auroc", "pixel_ap", "pixel_aupro")
SAMPLE = 8  # images of the warm-up
CHECK_TOLERANCE = 1e-9  # metric=exact against scikit-learn
SLACK = 1e-10  # the exact evaluation's own rounding, when bounds are checked
PACKAGES = ("numpy", "torch", "numba", "ADEval", "opencv-python", "scikit-learn", "torchmetrics", "scikit-image")


# ---- data -----------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """Whole categories in memory. ``low_C`` and ``high_C``: smallest and largest score, given to all for free."""

    map_NHW: Any  # float32: array, or CUDA tensor
    mask_NHW: Any  # uint8, 0 or 1
    score_N: Array  # float64: largest of the map
    label_N: Array
    category_N: Array
    names: list[str]
    first_C: list[int]
    low_C: list[float] = field(default_factory=list)
    high_C: list[float] = field(default_factory=list)

    @classmethod
    def make(cls, images: Images, first_category: int = 0, stop_category: int | None = None) -> Data:
        """Draws some categories, by default all."""
        names = images.names[first_category:stop_category]
        bounds = images.first_C[first_category : first_category + len(names) + 1]
        first, count = bounds[0], bounds[-1] - bounds[0]
        map_NHW = np.empty((count, images.size, images.size), dtype=np.float32)
        mask_NHW = np.empty(map_NHW.shape, dtype=np.uint8)
        images.draw(first, map_NHW, mask_NHW)
        score_N = map_NHW.max(axis=(1, 2)).astype(np.float64)
        category_N = images.category_N[first : first + count] - first_category
        first_C = [bound - first for bound in bounds]
        data = cls(map_NHW, mask_NHW, score_N, images.label_N[first : first + count], category_N, names, first_C)
        data.low_C = [float(map_NHW[part].min()) for _, part in data.parts()]
        data.high_C = [float(map_NHW[part].max()) for _, part in data.parts()]
        return data

    def parts(self) -> Iterator[tuple[str, slice]]:
        """Name and images of each category."""
        for number, name in enumerate(self.names):
            yield name, slice(self.first_C[number], self.first_C[number + 1])

    def batches(self, size: int, part: slice | None = None) -> Iterator[slice]:
        """All images, or those of one category, in batches."""
        first, stop = (0, len(self.score_N)) if part is None else (part.start, part.stop)
        for at in range(first, stop, size):
            yield slice(at, min(at + size, stop))

    def head(self, categories: int) -> Data:
        """The first categories; views."""
        first_C = self.first_C[: categories + 1]
        return self._take(slice(first_C[-1]), self.names[:categories], first_C)

    def sample(self, images: int) -> Data:
        """A part of the first category, with its share of defective images (at least one of each kind); copies."""
        label_N = self.label_N[: self.first_C[1]]
        kinds = [np.flatnonzero(label_N == kind) for kind in (0, 1)]
        kept = [each[: max(1, round(images * len(each) / len(label_N)))] for each in kinds]
        keep = np.sort(np.concatenate(kept))
        return self._take(keep, self.names[:1], [0, len(keep)])

    def _take(self, keep: slice | Array, names: list[str], first_C: list[int]) -> Data:
        arrays = ("map_NHW", "mask_NHW", "score_N", "label_N", "category_N")
        taken = {name: getattr(self, name)[keep] for name in arrays}
        return replace(self, **taken, names=names, first_C=first_C)

    def to_cuda(self) -> Data:
        """The same with maps and masks on the GPU."""
        torch = importlib.import_module("torch")
        on_gpu = {name: torch.from_numpy(getattr(self, name)).cuda() for name in ("map_NHW", "mask_NHW")}
        return replace(self, **on_gpu)


# ---- competitors ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """What one worker process measures."""

    row: str
    images: int
    categories: int
    distribution: str
    size: int
    seed: int
    batch: int
    repeats: int
    limit: float
    threads: int | None

    def make_images(self) -> Images:
        """The test set."""
        return Images(self.images, self.categories, self.distribution, self.size, self.seed)


@dataclass
class Outcome:
    """What a competitor computed."""

    values: Values = field(default_factory=dict)
    bounds: Values = field(default_factory=dict)
    update_seconds: float | None = None  # of the whole, where updates and results are two steps


Run = Callable[[], Outcome]


@dataclass(frozen=True)
class Competitor:
    """One row. ``prepare`` imports and allocates, untimed; what it returns is timed."""

    title: str
    prepare: Callable[[Data, Spec], Run]
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


def ader(metric: str = "histogram", cuda: bool = False) -> Callable[[Data, Spec], Run]:
    """This project's evaluator: every metric and every bound."""

    def prepare(data: Data, spec: Spec) -> Run:
        torch = importlib.import_module("torch")
        evaluator_class = importlib.import_module("ader.metrics").Evaluator
        map_NHW, mask_NHW = (torch.as_tensor(each) for each in (data.map_NHW, data.mask_NHW))  # no copies

        def run() -> Outcome:
            began = time.perf_counter()
            evaluator = evaluator_class(data.names, device="cuda" if cuda else "cpu", metric=metric)
            for part in data.batches(spec.batch):
                images = (data.category_N[part], data.score_N[part], data.label_N[part])
                evaluator.update(*images, map_NHW[part], mask_NHW[part])
            updated = time.perf_counter() - began
            frames = (evaluator.compute(), evaluator.bounds())
            values, bounds = (frame.loc[data.names].T.to_dict() for frame in frames)
            return Outcome(values, bounds, updated)

        return run

    return prepare


def adeval(strips: int, cuda: bool = False) -> Callable[[Data, Spec], Run]:
    """ADEval's accumulator, one per category as in ADer, with the true range of scores known in advance."""

    def prepare(data: Data, spec: Spec) -> Run:
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


def sklearn(thresholds: int) -> Callable[[Data, Spec], Run]:
    """ADer without ADEval: scikit-learn, 21 thresholds for F1 and IoU, scikit-image region by region for AUPRO."""

    def prepare(data: Data, spec: Spec) -> Run:
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


def torchmetrics(thresholds: int | None) -> Callable[[Data, Spec], Run]:
    """torchmetrics' binary AUROC and AP with shared counts. It takes scores outside [0, 1] for logits, batch by batch,
    so maps are stretched to [0, 1] by the known range first."""

    def prepare(data: Data, spec: Spec) -> Run:
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
                for batch in data.batches(spec.batch, part):
                    map_BHW, mask_BHW = (torch.from_numpy(each[batch]) for each in (data.map_NHW, data.mask_NHW))
                    found.update(((map_BHW - low) / (high - low)).flatten(), mask_BHW.flatten())
                outcome.values[name] = {slug: float(value) for slug, value in found.compute().items()}
            return outcome

        return run

    return prepare


def copy_fresh(data: Data, spec: Spec) -> Run:
    """Copies maps and masks into fresh memory."""

    def run() -> Outcome:
        if isinstance(data.map_NHW, np.ndarray):
            _ = (np.copy(data.map_NHW), np.copy(data.mask_NHW))
        else:
            _ = (data.map_NHW.clone(), data.mask_NHW.clone())
        return Outcome()

    return run


def copy_existing(data: Data, spec: Spec) -> Run:
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


# ---- worker ---------------------------------------------------------------------------------------------------------


class PeakMemory:
    """``with PeakMemory(cuda) as peak: ...``; then ``peak.extra`` bytes above what was there before."""

    extra: int

    def __init__(self, cuda: bool) -> None:
        self._cuda = importlib.import_module("torch").cuda if cuda else None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self._cuda:
            self._cuda.reset_peak_memory_stats()
            self._before = self._cuda.memory_allocated()
            return self
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed but kept would hide what this one needs
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        except (OSError, AttributeError):
            pass  # then the peak may be an earlier one: an upper bound
        self._before = resident()
        return self

    def __exit__(self, *error: object) -> None:
        peak = self._cuda.max_memory_allocated() if self._cuda else resident("VmHWM")
        self.extra = max(peak - self._before, 0)


def timed(run: Run, cuda: bool) -> tuple[Outcome, float, float]:
    """Result, wall seconds and processor seconds (all threads)."""
    wait = importlib.import_module("torch").cuda.synchronize if cuda else lambda: None
    wait()
    began, cpu_began = time.perf_counter(), time.process_time()
    outcome = run()
    wait()
    return outcome, time.perf_counter() - began, time.process_time() - cpu_began


def answer(spec: Spec) -> dict[str, Any]:
    """`work`, or why there is nothing to measure."""
    try:
        return work(spec)
    except NotInstalledError as error:
        return {"problem": str(error)}


def work(spec: Spec) -> dict[str, Any]:
    """Measures one competitor, in this process."""
    set_threads(spec.threads)
    if spec.row == "reference":
        return reference(spec)
    competitor = COMPETITORS[spec.row]
    everything = Data.make(spec.make_images())
    checksum = zlib.crc32(everything.map_NHW[: everything.first_C[1]])
    sample = everything.sample(SAMPLE)
    if competitor.cuda:
        everything, sample = everything.to_cuda(), sample.to_cuda()
    first, second = (timed(competitor.prepare(sample, spec), competitor.cuda)[1] for _ in range(2))
    data = what_fits(competitor, everything, second / len(sample.score_N), spec)
    result = measure(competitor, competitor.prepare(data, spec), everything, spec)
    if result["values"] and len(data.score_N) < everything.first_C[1]:
        result["exact"] = ader("exact")(data, spec)().values
    return result | {
        "checksum": checksum,
        "images": len(data.score_N),
        "pixels": int(np.prod(data.map_NHW.shape)),
        "bytes": 5 * int(np.prod(everything.map_NHW.shape)),
        "extrapolated": len(data.score_N) < spec.images,
        "one_off_seconds": max(first - second, 0.0),
        "threads": thread_counts(),
        "load": os.getloadavg()[0],
    }


def what_fits(competitor: Competitor, everything: Data, seconds_per_image: float, spec: Spec) -> Data:
    """As many whole categories as take --limit seconds, or a part of one.

    The few images of the warm-up overrate what has a fixed cost per category, so a whole one is timed before any is
    left out.
    """
    if seconds_per_image * spec.images <= spec.limit:
        return everything
    images = everything.first_C[1]
    if seconds_per_image * images <= spec.limit:
        seconds = timed(competitor.prepare(everything.head(1), spec), competitor.cuda)[1]
        return everything.head(min(max(1, int(spec.limit / seconds)), len(everything.names)))
    return everything.sample(max(2, int(spec.limit / seconds_per_image)))


def measure(competitor: Competitor, run: Run, everything: Data, spec: Spec) -> dict[str, Any]:
    """Best times of the competitor and of the copies, alternately; its values, bounds and peak memory."""
    yardsticks = {"copy_fresh_seconds": copy_fresh, "copy_existing_seconds": copy_existing}
    copies: dict[str, list[float]] = {name: [] for name in yardsticks}
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    updates: list[float | None] = []
    extra = 0
    while not seconds or (len(seconds) < spec.repeats and sum(seconds) + seconds[-1] <= spec.limit):
        for name, prepare in yardsticks.items():
            copies[name].append(timed(prepare(everything, spec), competitor.cuda)[1])
        with PeakMemory(competitor.cuda) as peak:
            outcome, wall, cpu = timed(run, competitor.cuda)
        extra = max(extra, peak.extra)
        updates.append(outcome.update_seconds)
        seconds.append(wall)
        cpu_seconds.append(cpu)
    best = int(np.argmin(seconds))
    return {
        **{name: min(times) for name, times in copies.items()},
        "seconds": seconds[best],
        "all_seconds": seconds,
        "cpu_seconds": cpu_seconds[best],
        "update_seconds": updates[best],
        "peak_bytes": extra,
        "values": outcome.values,
        "bounds": outcome.bounds,
    }


def reference(spec: Spec) -> dict[str, Any]:
    """Exact values, category by category, and how far other code is from them on the first."""
    images = spec.make_images()
    values: Values = {}
    check: dict[str, float] | str = {}
    checksum = 0
    for number, name in enumerate(images.names):
        data = Data.make(images, number, number + 1)
        values |= ader("exact")(data, spec)().values
        if number == 0:
            checksum = zlib.crc32(data.map_NHW)
            try:
                metrics = load("sklearn.metrics", "scikit-learn")
            except NotInstalledError as error:
                check = str(error)
                continue
            truth, score = data.mask_NHW.ravel(), data.map_NHW.ravel()
            other = {
                "pixel_auroc": metrics.roc_auc_score(truth, score),
                "pixel_ap": metrics.average_precision_score(truth, score),
                "pixel_aupro": plain_aupro(data.map_NHW, data.mask_NHW),
            }
            check = {slug: abs(float(value) - values[name][slug]) for slug, value in other.items()}
    return {"values": values, "check": check, "checksum": checksum}


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


def set_threads(threads: int | None) -> None:
    """Applies --threads to the libraries that do not read the environment."""
    if threads is None:
        return
    importlib.import_module("torch").set_num_threads(threads)
    if importlib.util.find_spec("cv2"):
        importlib.import_module("cv2").setNumThreads(threads)


def thread_counts() -> dict[str, int]:
    """How many threads the libraries in this process would use."""
    counts = {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0}
    for module, ask in (("torch", "get_num_threads"), ("numba", "get_num_threads"), ("cv2", "getNumThreads")):
        if module in sys.modules:
            counts[module] = int(getattr(sys.modules[module], ask)())
    return counts


# ---- parent ---------------------------------------------------------------------------------------------------------


def start_worker(spec: Spec) -> dict[str, Any]:
    """Runs `answer` in a process of its own; a failure is an answer too."""
    environment = dict(os.environ)
    if spec.row in COMPETITORS:
        environment |= COMPETITORS[spec.row].environment
    if spec.threads is not None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment |= dict.fromkeys(names, str(spec.threads))
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(asdict(spec))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return {"problem": f"failed: {said[-1] if said and done.returncode > 0 else f'status {done.returncode}'}"}


def bench(specs: Sequence[Spec], scale: int) -> dict[str, Any]:
    """All competitors at one size, with ratios and errors."""
    truth = start_worker(replace(specs[0], row="reference"))
    if "problem" in truth:
        sys.exit(f"the exact values could not be computed: {truth['problem']}")
    rows: dict[str, dict[str, Any]] = {}
    for spec in specs:
        row = start_worker(spec)
        if "problem" not in row:
            if row["checksum"] != truth["checksum"]:
                sys.exit(f"{spec.row}: other data than the exact values")
            row |= derive(row, row.pop("exact", truth["values"]))
        rows[spec.row] = row
        said = row.get("problem") or f"{row['seconds']:.3f} s for {row['images']} of {spec.images} images"
        print(f"{scale}x {spec.row}: {said}", file=sys.stderr, flush=True)
    for name, row in rows.items():
        rival = rows.get("adeval-1000-cuda" if COMPETITORS[name].cuda else "adeval-1000", {})
        if "ns_per_pixel" in row and "ns_per_pixel" in rival:
            row["ratio_adeval"] = row["ns_per_pixel"] / rival["ns_per_pixel"]
    return {"scale": scale, "images": specs[0].images, "check": truth["check"], "exact": truth["values"], "rows": rows}


def derive(row: dict[str, Any], exact: Values) -> dict[str, Any]:
    """Speed, ratios to the copy, errors and whether bounds hold."""
    ns = row["seconds"] / row["pixels"] * 1e9
    pixels = row["bytes"] / 5
    found: dict[str, Any] = {"ns_per_pixel": ns, "megapixels_per_second": 1e3 / ns}
    for kind in ("fresh", "existing"):
        found[f"copy_{kind}_ns"] = row[f"copy_{kind}_seconds"] / pixels * 1e9
        found[f"ratio_copy_{kind}"] = ns / found[f"copy_{kind}_ns"]
    errors = {
        slug: float(np.max([abs(value[slug] - exact[name][slug]) for name, value in row["values"].items()]))
        for slug in SLUGS
        if all(slug in value for value in row["values"].values()) and row["values"]
    }
    bounds = [bound for each in row["bounds"].values() for bound in each.values() if not math.isnan(bound)]
    broken = [
        f"{slug} of {name}"
        for name, each in row["bounds"].items()
        for slug, bound in each.items()
        if abs(row["values"][name][slug] - exact[name][slug]) > bound + SLACK
    ]
    return found | {
        "errors": errors,
        "error": max(errors.values(), default=None),
        "bound": max(bounds, default=None),
        "broken_bounds": broken,
    }


def table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; all but the first to the right."""
    cells = [heading, *lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heading))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def show(line: Sequence[str]) -> str:
        padded = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |"

    return "\n".join([show(heading), show(rule), *(show(line) for line in lines)])


def number(value: float | None, mark: str = "") -> str:
    """Three significant digits, no exponent; "-" for None."""
    if value is None:
        return "-"
    decimals = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{mark}{value:,.{min(decimals, 6)}f}"


def power(value: float | None) -> str:
    """An error: two significant digits."""
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"


def terminal_table(size: dict[str, Any]) -> str:
    """Everything at one size."""
    heading = [
        "",
        "s",
        "ns/pixel",
        "Mpixel/s",
        "/ ADEval",
        "/ copy fresh",
        "/ copy",
        "MiB",
        "one-off s",
        "error",
        "bound",
    ]
    lines, notes = [], []
    for name, row in size["rows"].items():
        title = COMPETITORS[name].title
        if "problem" in row:
            lines.append([title, *["-"] * (len(heading) - 1)])
            notes.append(f"{title}: {row['problem']}")
            continue
        mark, whole = (
            ("~", row["seconds"] * size["images"] / row["images"]) if row["extrapolated"] else ("", row["seconds"])
        )
        lines.append(
            [
                title,
                number(whole, mark),
                number(row["ns_per_pixel"], mark),
                number(row["megapixels_per_second"], mark),
                number(row.get("ratio_adeval"), mark),
                number(row["ratio_copy_fresh"], mark),
                number(row["ratio_copy_existing"], mark),
                number(row["peak_bytes"] / 2**20, ">" if mark else ""),
                number(row["one_off_seconds"]),
                power(row["error"]),
                power(row["bound"]),
            ]
        )
        notes += [f"{title}: certified bound does not hold: {each}" for each in row["broken_bounds"]]
        if name.startswith("copy"):
            notes.append(f"{title}: {2 * row['bytes'] / row['seconds'] / 1e9:.1f} GB/s, read and written")
    check = size["check"]
    said = check if isinstance(check, str) else ", ".join(f"{slug} {power(each)}" for slug, each in check.items())
    notes.append(f"exact values of one category against scikit-learn and another AUPRO: {said}")
    return "\n".join([table(heading, lines), *notes])


def markdown_table(sizes: Sequence[dict[str, Any]]) -> str:
    """The README's table: ratios at the first size, memory at the first and the last, error over all."""
    first, last = sizes[0], sizes[-1]
    scales = [f"ns/pixel, {size['scale']}x" for size in sizes]
    heading = ["", *scales, "/ ADEval", "/ copy (fresh, existing memory)", "extra MiB", "largest error"]
    lines = []
    for name in first["rows"]:
        rows = [size["rows"][name] for size in sizes]
        if any("problem" in row for row in rows):
            problem = next(row["problem"] for row in rows if "problem" in row)
            lines.append([COMPETITORS[name].title, problem, *["-"] * (len(heading) - 2)])
            continue
        marks = ["~" if row["extrapolated"] else "" for row in rows]
        memory = [number(row["peak_bytes"] / 2**20, ">" if row["extrapolated"] else "") for row in rows]
        errors = [row["error"] for row in rows if row["error"] is not None]
        lines.append(
            [
                COMPETITORS[name].title,
                *(number(row["ns_per_pixel"], mark) for row, mark in zip(rows, marks, strict=True)),
                number(rows[0].get("ratio_adeval"), marks[0]),
                ", ".join(number(rows[0][f"ratio_copy_{kind}"], marks[0]) for kind in ("fresh", "existing")),
                memory[0] if first is last else f"{memory[0]} to {memory[-1]}",
                power(max(errors, default=None)),
            ]
        )
    return table(heading, lines)


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    torch = importlib.import_module("torch")
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.split(":")[1].strip()
        for line in (cpuinfo.read_text() if cpuinfo.exists() else "").splitlines()
        if line.startswith("model name")
    ]
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = ["git", "-C", str(Path(__file__).parent)]
    commit, changed = (
        subprocess.run([*git, *words], capture_output=True, text=True, check=False).stdout.rstrip()
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", ".", "../ader"))
    )
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "versions": versions,
        "commit": commit,
        "changed": changed.splitlines(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line; returns the exit status."""
    options = parse(arguments)
    if options.worker:
        print(json.dumps(answer(Spec(**json.loads(options.worker)))))
        return 0
    report = {
        "command": " ".join(sys.argv if arguments is None else ["bench_evaluator.py", *arguments]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "options": {name: value for name, value in vars(options).items() if name not in ("json", "worker")},
        "machine": machine(),
    }
    sizes: list[dict[str, Any]] = []
    for scale in options.scale:
        shared = {name: getattr(options, name) for name in Spec.__dataclass_fields__ if name not in ("row", "images")}
        specs = [Spec(row=row, images=scale * options.images, **shared) for row in options.only]
        sizes.append(bench(specs, scale))
        print(f"\n{scale}x: {specs[0].images:,} maps of {options.size}x{options.size}, {options.distribution}")
        print(terminal_table(sizes[-1]), flush=True)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(report | {"sizes": sizes}, indent=1, default=str) + "\n")
    if options.markdown:
        print(f"\n{markdown_table(sizes)}")
    return int(not all(sound(size) for size in sizes))


def sound(size: dict[str, Any]) -> bool:
    """Whether the exact values agree with other code (where there is any) and all bounds hold."""
    agrees = isinstance(size["check"], str) or max(size["check"].values()) <= CHECK_TOLERANCE
    return agrees and not any(row.get("broken_bounds") for row in size["rows"].values())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with the rows to run in ``only``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1725, help="images at scale 1 (default 1725)")
    parser.add_argument("--categories", type=int, default=15, help="default 15")
    parser.add_argument("--scale", type=int, nargs="+", default=[1], help="multiples of --images (default 1)")
    parser.add_argument("--distribution", choices=DISTRIBUTIONS, default="smooth", help="of scores (default smooth)")
    parser.add_argument("--size", type=int, default=256, help="maps are SIZE x SIZE (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the data (default 0)")
    parser.add_argument("--batch", type=int, default=32, help="images per update (default 32)")
    parser.add_argument("--repeats", type=int, default=3, help="the best one counts (default 3)")
    parser.add_argument("--limit", type=float, default=120, help="seconds per competitor and size (default 120)")
    parser.add_argument("--threads", type=int, help="per competitor (default: each library's own choice)")
    parser.add_argument(
        "--only", nargs="+", choices=list(COMPETITORS), metavar="ROW", help=f"of {', '.join(COMPETITORS)}"
    )
    parser.add_argument("--torch-only", action="store_true", help="also the evaluator without compiled kernels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, after each size")
    parser.add_argument("--markdown", action="store_true", help="also print the README's table")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.images < 2 * options.categories:
        parser.error(f"--images {options.images}: at least two for each of {options.categories} categories")
    if options.only is None:
        cuda = not options.worker and importlib.import_module("torch").cuda.is_available()
        options.only = [row for row, each in COMPETITORS.items() if (cuda or not each.cuda) and row != "ader-torch"]
    if options.torch_only and "ader-torch" not in options.only:
        options.only.insert(options.only.index("ader") + 1 if "ader" in options.only else 0, "ader-torch")
    return options


if __name__ == "__main__":
    sys.exit(main())
