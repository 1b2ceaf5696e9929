"""Streams a made-up test set of Real-IAD's size through the evaluator, and watches its memory.

    python -m benchmarks.evaluator.stress                    # 115,000 maps of 256x256, 30 categories
    python -m benchmarks.evaluator.stress --images 2000 --distribution gaussian --json FILE

Maps are made on the fly, a batch at a time, so that the process holds little but the evaluator. Speed is the
evaluator's alone: making the images is not counted. Exit status 1: the process's peak memory exceeds --limit-gb.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ader.metrics import Evaluator
from benchmarks._common import peak_of_getrusage, resident, write_json
from benchmarks.evaluator.data import DISTRIBUTIONS, Array, Images

SHARE = (0.2, 0.3)  # of defective images: smallest and largest over the categories
LINES = 20  # of progress


def stress(images: Images, batch: int) -> dict[str, Any]:
    """Runs all images through an evaluator, with progress lines; times, memory and results."""
    after_imports = resident()
    map_BHW = np.empty((batch, images.size, images.size), dtype=np.float32)
    mask_BHW = np.empty(map_BHW.shape, dtype=np.uint8)
    # the first evaluator compiles the kernels, the second tells how much of its time that was
    warm_up, again = (timed_update(Evaluator(images.names), images, 0, map_BHW, mask_BHW) for _ in range(2))
    evaluator, total = Evaluator(images.names), len(images.label_N)
    seconds = stream(evaluator, images, map_BHW, mask_BHW)
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


def stream(evaluator: Any, images: Images, map_BHW: Array, mask_BHW: Array) -> float:
    """Makes and adds all images, a batch at a time in the same two arrays; seconds of the adding."""
    total, batch, seconds, shown = len(images.label_N), len(map_BHW), 0.0, 0
    for first in range(0, total, batch):
        done = min(first + batch, total)
        seconds += timed_update(evaluator, images, first, map_BHW[: done - first], mask_BHW[: done - first])
        if done * LINES // total > shown:
            shown = done * LINES // total
            memory = f"memory {resident() / 1e9:.2f} GB, peak {resident('VmHWM') / 1e9:.2f} GB"
            print(f"{done:8,} of {total:,} images, {done / seconds:6,.0f} images/s, {memory}", flush=True)
    return seconds


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
    """Runs the test and prints what it showed; returns the exit status."""
    options = parse(arguments)
    images = Images(options.images, options.categories, options.distribution, options.size, options.seed, SHARE)
    result = stress(images, options.batch)
    print("\n".join(summary(result, options.limit_gb)))
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        write_json(options.json, {"options": settings} | result)
    return int(result["peak_rss_bytes"] > options.limit_gb * 1e9)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.evaluator.stress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    return options


if __name__ == "__main__":
    sys.exit(main())
