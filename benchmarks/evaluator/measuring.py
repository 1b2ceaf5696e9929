"""One competitor measured in this process: its one-off time, its best time, its memory, and copies beside it."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
import time
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks._common import forget_peak, resident
from benchmarks.evaluator.competitors import (
    COMPETITORS,
    Competitor,
    NotInstalledError,
    Outcome,
    Run,
    ader,
    copy_existing,
    copy_fresh,
)
from benchmarks.evaluator.data import Data, Images
from benchmarks.evaluator.reference import reference

SAMPLE = 8  # images of the warm-up
YARDSTICKS = {"copy_fresh_seconds": copy_fresh, "copy_existing_seconds": copy_existing}


@dataclass(frozen=True)
class Spec:
    """What one worker process measures.

    Attributes:
        row: of ``COMPETITORS``, or ``reference``: the exact values.
        images: of the whole test set.
        categories: of the test set.
        distribution: of scores, one of ``DISTRIBUTIONS``.
        size: maps are (size, size).
        seed: of the data.
        batch: images per update.
        repeats: of which the best counts.
        limit: seconds that the competitor may take.
        threads: of each library; None leaves it to them.
    """

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


class PeakMemory:
    """``with PeakMemory(cuda) as peak: ...``; then ``peak.extra`` bytes above what was there before."""

    extra: int

    def __init__(self, cuda: bool) -> None:
        self._cuda = importlib.import_module("torch").cuda if cuda else None

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            gc.collect()
            self._cuda.reset_peak_memory_stats()
            self._before = self._cuda.memory_allocated()
        else:
            forget_peak()
            self._before = resident()
        return self

    def __exit__(self, *error: object) -> None:
        peak = self._cuda.max_memory_allocated() if self._cuda else resident("VmHWM")
        self.extra = max(peak - self._before, 0)


class Lap(NamedTuple):
    """One timed run: its result, wall seconds and processor seconds (all threads)."""

    outcome: Outcome
    seconds: float
    cpu_seconds: float


def timed(run: Run, cuda: bool) -> Lap:
    """Runs once; on CUDA, until the device is done."""
    wait = importlib.import_module("torch").cuda.synchronize if cuda else lambda: None
    wait()
    began, cpu_began = time.perf_counter(), time.process_time()
    outcome = run()
    wait()
    return Lap(outcome, time.perf_counter() - began, time.process_time() - cpu_began)


def answer(spec: Spec) -> dict[str, Any]:
    """What a worker prints: figures, or why there is nothing to measure."""
    set_threads(spec.threads)
    try:
        return reference(spec.make_images(), spec.batch) if spec.row == "reference" else figures(spec)
    except NotInstalledError as error:
        return {"problem": str(error)}


def figures(spec: Spec) -> dict[str, Any]:
    """Measures one competitor on what it can do within the limit, and says what that was."""
    competitor = COMPETITORS[spec.row]
    everything = Data.make(spec.make_images())
    checksum = zlib.crc32(everything.map_NHW[: everything.first_C[1]])
    sample = everything.sample(SAMPLE)
    if competitor.cuda:
        everything, sample = everything.to_cuda(), sample.to_cuda()
    first, second = (timed(competitor.prepare(sample, spec.batch), competitor.cuda).seconds for _ in range(2))
    data = what_fits(competitor, everything, second / len(sample.score_N), spec)
    result = measure(competitor, competitor.prepare(data, spec.batch), everything, spec)
    if result["values"] and len(data.score_N) < everything.first_C[1]:
        result["exact"] = ader("exact")(data, spec.batch)().values  # those of the whole category are of other images
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
        seconds = timed(competitor.prepare(everything.head(1), spec.batch), competitor.cuda).seconds
        return everything.head(min(max(1, int(spec.limit / seconds)), len(everything.names)))
    return everything.sample(max(2, int(spec.limit / seconds_per_image)))


def measure(competitor: Competitor, run: Run, everything: Data, spec: Spec) -> dict[str, Any]:
    """Best times of the competitor and of the copies, by turns; its values, bounds and peak memory."""
    copies: dict[str, list[float]] = {name: [] for name in YARDSTICKS}
    laps: list[Lap] = []
    extra = 0
    while not laps or (len(laps) < spec.repeats and sum(lap.seconds for lap in laps) + laps[-1].seconds <= spec.limit):
        for name, prepare in YARDSTICKS.items():
            copies[name].append(timed(prepare(everything, spec.batch), competitor.cuda).seconds)
        with PeakMemory(competitor.cuda) as peak:
            laps.append(timed(run, competitor.cuda))
        extra = max(extra, peak.extra)
    best = min(laps, key=lambda lap: lap.seconds)
    return {
        **{name: min(times) for name, times in copies.items()},
        "seconds": best.seconds,
        "all_seconds": [lap.seconds for lap in laps],
        "cpu_seconds": best.cpu_seconds,
        "update_seconds": best.outcome.update_seconds,
        "peak_bytes": extra,
        "values": best.outcome.values,
        "bounds": best.outcome.bounds,
    }


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
