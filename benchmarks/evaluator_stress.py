"""Streams a made-up test set of Real-IAD's size through the evaluator, and watches its memory.

    python -m benchmarks.evaluator_stress                    # 115,000 maps of 256x256, 30 categories
    python -m benchmarks.evaluator_stress --images 2000 --distribution gaussian --json FILE

Maps are made on the fly, a batch at a time, so that the process holds little but the evaluator. Speed is the
evaluator's alone: making the images is not counted. Exit status 1: the process's peak memory exceeds --limit-gb.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Array = npt.NDArray[Any]

DISTRIBUTIONS = ("smooth", "uniform", "gaussian", "exp", "negative")
POOL = 16  # noise fields and blob patterns that images are made from
SHARE = (0.2, 0.3)  # of defective images: smallest and largest over the categories
LINES = 20  # of progress


class Images:
    """A made-up test set: image i is the same in every process, batch and order, and no two are equal.

    Noise fields from a small pool are shifted, mirrored and scaled; defective images get a raised bump over 1 to 3
    blobs, and every fifth image one over nothing, a false alarm. Images are sorted by category.

    Args:
        images: how many; at least two per category.
        categories: how many, of equal size but for rounding.
        distribution: ``smooth`` (Gaussian-filtered noise, sigma 4 pixels, positive and skewed, another range in every
            category), ``exp`` (exponential of that: ten decades), ``negative`` (that, stretched to about -100),
            ``uniform``, ``gaussian`` (independent noise per pixel).
        size: maps are (size, size).
        seed: of everything.
        share: of defective images, smallest and largest over the categories.
    """

    def __init__(
        self,
        images: int,
        categories: int,
        distribution: str = "smooth",
        size: int = 256,
        seed: int = 0,
        share: tuple[float, float] = (0.05, 0.30),
    ) -> None:
        if images < 2 * categories:
            raise ValueError(f"images: expected at least two for each of {categories} categories, got {images}")
        rng = np.random.default_rng(seed)
        self.size, self.distribution = size, distribution
        self.names = [f"category{number:02}" for number in range(categories)]
        self.first_C: list[int] = np.linspace(0, images, categories + 1).astype(int).tolist()
        self.category_N = np.repeat(np.arange(categories), np.diff(self.first_C))
        self.label_N = np.concatenate([_labels(rng, int(count), share) for count in np.diff(self.first_C)])
        self._noise = _noise_pool(rng, size, distribution)
        self._blob, self._bump = _blob_pool(rng, size)
        reach = self._blob.shape[1] - size + 1
        self._noise_at = rng.integers(0, [POOL, size, size, 2], (images, 4))
        self._blob_at = rng.integers(0, [POOL, reach, reach], (images, 2, 3))
        self._alarm_N = rng.random(images) < 0.2
        self._gain_N = rng.uniform(0.8, 1.25, images).astype(np.float32)
        height = {"uniform": 0.5, "gaussian": 3.0}.get(distribution, 5.0)
        self._height_N2 = (height * rng.uniform(0.2, [1.0, 0.6], (images, 2))).astype(np.float32)
        self._level_C = rng.uniform(0.02, 0.5, categories).astype(np.float32)

    def draw(self, first: int, map_BHW: Array, mask_BHW: Array) -> None:
        """Fills the arrays with the maps (float32) and masks (uint8, 0 or 1) of images ``first``, ``first + 1``, ..."""
        for offset in range(len(map_BHW)):
            self._draw(first + offset, map_BHW[offset], mask_BHW[offset])

    def _draw(self, i: int, map_HW: Array, mask_HW: Array) -> None:
        number, top, left, mirrored = self._noise_at[i]
        noise = self._noise[number, top : top + self.size, left : left + self.size]
        np.multiply(noise[:, ::-1] if mirrored else noise, self._gain_N[i], out=map_HW)
        mask_HW[:] = 0
        for which, there in enumerate((self.label_N[i], self._alarm_N[i])):
            if there:
                number, top, left = self._blob_at[i, which]
                window = (number, slice(top, top + self.size), slice(left, left + self.size))
                map_HW += self._bump[window] * self._height_N2[i, which]
                if which == 0:
                    mask_HW[:] = self._blob[window]
        if self.distribution == "smooth":
            map_HW *= self._level_C[self.category_N[i]]
        elif self.distribution == "exp":
            np.exp(np.multiply(map_HW, 3.0, out=map_HW), out=map_HW)
        elif self.distribution == "negative":
            np.subtract(np.multiply(map_HW, 10.0, out=map_HW), 100.0, out=map_HW)


def _labels(rng: np.random.Generator, images: int, share: tuple[float, float]) -> Array:
    """Labels of one category, both kinds among them, shuffled."""
    defective = min(max(round(rng.uniform(*share) * images), 1), images - 1)
    return rng.permutation(np.arange(images) < defective).astype(np.int64)


def _noise_pool(rng: np.random.Generator, size: int, distribution: str) -> Array:
    """(POOL, 2 size, 2 size): fields that repeat, so that every window of them is a shifted field."""
    shape = (POOL, size, size)
    if distribution == "uniform":
        field_PHW = rng.random(shape, dtype=np.float32)
    else:
        field_PHW = rng.standard_normal(shape, dtype=np.float32)
        if distribution != "gaussian":
            field_PHW = gaussian_filter(field_PHW, (0, 4, 4), mode="wrap")
            field_PHW = np.exp(0.3 / field_PHW.std() * field_PHW)
    return np.tile(field_PHW.astype(np.float32), (1, 2, 2))


def _blob_pool(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Masks (uint8) and bumps (float32) of 1 to 3 separate blobs, each wholly inside every window of (size, size)."""
    canvas = size + 2 * int(0.15 * size)
    row_HW, column_HW = np.mgrid[:canvas, :canvas] - (canvas - 1) / 2
    blob_PHW = np.zeros((POOL, canvas, canvas), dtype=np.uint8)
    for blob_HW in blob_PHW:
        for quadrant in rng.permutation(4)[: rng.integers(1, 4)]:
            y_HW = row_HW - 0.3 * size * (quadrant // 2 - 0.5)
            x_HW = column_HW - 0.3 * size * (quadrant % 2 - 0.5)
            angle_HW, (two, three) = np.arctan2(y_HW, x_HW), rng.uniform(0, 2 * np.pi, 2)
            wobble_HW = 1 + 0.25 * np.sin(2 * angle_HW + two) + 0.15 * np.sin(3 * angle_HW + three)
            blob_HW[np.hypot(x_HW, y_HW) <= rng.uniform(0.02, 0.1) * size * wobble_HW] = 1
    bump_PHW = gaussian_filter(blob_PHW.astype(np.float32), (0, size / 64, size / 64))
    return blob_PHW, bump_PHW.astype(np.float32)


def resident(field_name: str = "VmRSS") -> int:
    """Bytes of this process now (``VmRSS``) or at its peak (``VmHWM``); without /proc, always the peak."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field_name))
    except (OSError, StopIteration):
        return peak_of_getrusage()


def peak_of_getrusage() -> int:
    """Bytes. Not the first choice: a process inherits this peak from the one that started it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def stress(images: Images, batch: int) -> dict[str, Any]:
    """Runs all images through an evaluator, with progress lines; times, memory and results."""
    from ader.metrics import Evaluator  # here, so that others can make images without it

    after_imports = resident()
    map_BHW = np.empty((batch, images.size, images.size), dtype=np.float32)
    mask_BHW = np.empty(map_BHW.shape, dtype=np.uint8)
    warm_up = timed_update(Evaluator(images.names), images, 0, map_BHW, mask_BHW)
    again = timed_update(Evaluator(images.names), images, 0, map_BHW, mask_BHW)
    evaluator, total, seconds, shown = Evaluator(images.names), len(images.label_N), 0.0, 0
    for first in range(0, total, batch):
        done = min(first + batch, total)
        seconds += timed_update(evaluator, images, first, map_BHW[: done - first], mask_BHW[: done - first])
        if done * LINES // total > shown:
            shown = done * LINES // total
            memory = f"memory {resident() / 1e9:.2f} GB, peak {resident('VmHWM') / 1e9:.2f} GB"
            print(f"{done:8,} of {total:,} images, {done / seconds:6,.0f} images/s, {memory}", flush=True)
    began = time.perf_counter()
    frame, bounds = evaluator.compute(), evaluator.bounds()
    finishing = time.perf_counter() - began
    return {
        "images": total,
        "pixels": total * images.size**2,
        "one_off_seconds": max(warm_up - again, 0.0),
        "update_seconds": seconds,
        "compute_seconds": finishing,
        "images_per_second": total / (seconds + finishing),
        "ns_per_pixel": (seconds + finishing) / total / images.size**2 * 1e9,
        "rss_after_imports_bytes": after_imports,
        "peak_rss_bytes": resident("VmHWM"),
        "ru_maxrss_bytes": peak_of_getrusage(),
        "state_bytes": tensor_bytes(evaluator.state_dict()),  # after the peak was taken, as it copies
        "largest_bound": float(np.nanmax(bounds.to_numpy())),
        "mean": frame.loc["mean"].to_dict(),
    }


def timed_update(evaluator: Any, images: Images, first: int, map_BHW: Array, mask_BHW: Array) -> float:
    """Makes a batch of images and adds it; seconds of the adding."""
    images.draw(first, map_BHW, mask_BHW)
    part = slice(first, first + len(map_BHW))
    score_B = map_BHW.max(axis=(1, 2)).astype(np.float64)
    began = time.perf_counter()
    evaluator.update(images.category_N[part], score_B, images.label_N[part], map_BHW, mask_BHW)
    return time.perf_counter() - began


def tensor_bytes(state: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists."""
    if isinstance(state, dict):
        return sum(tensor_bytes(each) for each in state.values())
    if isinstance(state, (list, tuple)):
        return sum(tensor_bytes(each) for each in state)
    return int(getattr(state, "nbytes", 0))


def summary(result: dict[str, Any], limit_gb: float) -> list[str]:
    """What the run showed, in lines."""
    steps = [
        f"{what} {result[f'{key}_seconds']:.1f} s" for what, key in (("updates", "update"), ("results", "compute"))
    ]
    gigabytes = {key: f"{result[f'{key}_bytes'] / 1e9:.2f} GB" for key in ("rss_after_imports", "peak_rss", "state")}
    return [
        f"evaluator alone: {result['images_per_second']:,.0f} images/s, {result['ns_per_pixel']:.2f} ns/pixel "
        f"({', '.join(steps)}; one-off {result['one_off_seconds']:.1f} s before)",
        f"memory: peak {gigabytes['peak_rss']}, limit {limit_gb:g} GB; after imports {gigabytes['rss_after_imports']}; "
        f"state {gigabytes['state']}",
        f"mean pixel AUROC {result['mean']['pixel_auroc']:.4f}, largest bound {result['largest_bound']:.1e}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=115_000, help="default 115000")
    parser.add_argument("--categories", type=int, default=30, help="default 30")
    parser.add_argument("--distribution", choices=DISTRIBUTIONS, default="smooth", help="of scores (default smooth)")
    parser.add_argument("--size", type=int, default=256, help="maps are SIZE x SIZE (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the data (default 0)")
    parser.add_argument("--batch", type=int, default=32, help="images per update (default 32)")
    parser.add_argument("--limit-gb", type=float, default=1.5, help="of peak memory, 10^9 bytes (default 1.5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    options = parser.parse_args(arguments)
    if options.images < max(2 * options.categories, options.batch):
        parser.error(
            f"--images {options.images}: at least two for each of {options.categories} categories, and a batch"
        )
    images = Images(options.images, options.categories, options.distribution, options.size, options.seed, SHARE)
    result = stress(images, options.batch)
    print("\n".join(summary(result, options.limit_gb)))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"options": settings} | result, indent=1) + "\n")
    return int(result["peak_rss_bytes"] > options.limit_gb * 1e9)


if __name__ == "__main__":
    sys.exit(main())
